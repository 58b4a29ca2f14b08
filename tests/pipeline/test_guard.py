"""The user's code takes the process with it, in each of the ways that it can: code 2 and a sentence, nothing left."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from string import Template

import psutil
import pytest

from tests.conftest import environ, pipeline

RECIPE = Template("""
import os, subprocess, time
import torch
from torch import nn
from export.signature import Signature, SizeRange, TensorSpec
from export.worker import ProcessLimits
from pipeline.recipe import Data, Recipe, Split, TrainSpec
$imported

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)
        $built

    def forward(self, x):
        $called
        return self.fc(x)

def data():
    $loaded
    x = torch.randn(64, 4)
    return Data(train=Split(inputs={"x": x}, targets=x.sum(1, keepdim=True)))

def error(outputs, targets):
    $scored
    return 0.5

def recipe():
    $described
    return Recipe(
        name="ends", model=Net, data=data, loss=nn.functional.mse_loss, metrics={"error": error}, backends=("eager",),
        signature=Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(max=300)}),
        train=TrainSpec(epochs=2, batch_rows=16, lr=0.01), process=ProcessLimits(wall_s=2, memory_bytes=1 << 30),
    )
""")
PLACES = ("imported", "described", "built", "called", "loaded", "scored")
LEAVE = "os._exit(0)"
CRASH = "os.kill(os.getpid(), 11)"
HANG = "time.sleep(1000)"
EAT = "x = bytearray(os.urandom(1 << 20) * 2048); time.sleep(1000)"

ENDS = {
    "a recipe leaves while it is imported": ("imported", LEAVE, r"the recipe \S+ ended the process with code 0"),
    "a recipe's function crashes": ("described", CRASH, r"the recipe \S+ crashed: killed by SIGSEGV"),
    "a model crashes as it is built": ("built", CRASH, "building the model crashed: killed by SIGSEGV"),
    "a model hangs in its first call": ("called", HANG, "building the model did not end within its limit of 2 s"),
    "a model takes too much memory": ("called", EAT, "building the model takes .* more than its limit of 1024 MiB"),
    "data leave": ("loaded", LEAVE, "training ended the process with code 0"),
    "a metric crashes": ("scored", CRASH, "training crashed: killed by SIGSEGV"),
}


def _write(folder: Path, **bad: str) -> Path:
    path = folder / "ends.py"
    path.write_text(RECIPE.substitute(dict.fromkeys(PLACES, "pass") | bad))
    return path


@pytest.mark.parametrize("kind", ENDS)
def test_code_that_takes_the_process_with_it_is_named(kind: str, tmp_path: Path) -> None:
    place, code, reason = ENDS[kind]
    done = pipeline(_write(tmp_path, **{place: code}), "--only", "train", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.match(f"error: {reason}", errors[0]), errors
    if code in (CRASH, HANG):
        assert "ends.py" in done.stderr  # where it was


def test_without_its_leader_it_would_end_with_0_and_nothing_judged(tmp_path: Path) -> None:
    """The twin."""
    code = "from pipeline import all, cli; cli.guarded = lambda command: command(); raise SystemExit(cli.end(all.main))"
    command = [sys.executable, "-c", code, str(_write(tmp_path, imported=LEAVE)), "--only", "train"]
    assert subprocess.run(command, cwd=tmp_path, env=environ(), check=False).returncode == 0


LINGER = "subprocess.Popen(['sleep', '1000'], start_new_session=True)"


@pytest.mark.parametrize("end", ["by itself", "SIGTERM", "SIGKILL"])
def test_nothing_that_the_users_code_started_is_left(end: str, tmp_path: Path) -> None:
    """The parent alone gets a signal; what is below it knows by itself."""
    hang = "" if end == "by itself" else f"; {HANG}"
    linger = f"open('pid', 'w').write(str({LINGER}.pid)){hang}"
    command = [sys.executable, "-m", "pipeline.all", str(_write(tmp_path, loaded=linger)), "--only", "train"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environ(), stdout=subprocess.DEVNULL)
    written, deadline_s = tmp_path / "pid", time.monotonic() + 60
    while not written.exists() or not written.read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    left = [*psutil.Process(process.pid).children(), psutil.Process(int(written.read_text()))]
    if end != "by itself":
        process.send_signal(signal.Signals[end])
    assert process.wait(60) == (0 if end == "by itself" else -signal.Signals[end])
    if end == "SIGKILL":  # of the user's own processes nobody is left then who knew of them
        left.pop().kill()
    _, alive = psutil.wait_procs(left, timeout=2)
    assert not alive


def test_a_killed_run_says_so(tmp_path: Path) -> None:
    done = pipeline(_write(tmp_path, loaded="os.kill(os.getpid(), 9)"), "--only", "train", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: training crashed: killed by SIGKILL: the machine may be out of memory" in done.stderr


def test_temporary_files_of_the_users_code_lie_in_the_run_and_go(tmp_path: Path) -> None:
    keep = "import tempfile; open('place', 'w').write(tempfile.mkdtemp())"
    out = Path("/tmp") / f"torchstone-{tmp_path.name}"
    try:
        for name in (out, tmp_path / "one of spaces"):
            done = pipeline(_write(tmp_path, loaded=keep), "--only", "train", "--out", name, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            place = Path((tmp_path / "place").read_text())
            assert place.is_relative_to(out) == (name == out)
            assert not place.parent.exists()
    finally:
        shutil.rmtree(out)
