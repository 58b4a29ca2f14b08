"""One of the processes that torchrun started is killed again and again: the end is that of a training left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import environ
from tests.pipeline.training.small import STEPS_COUNT, same_bits, weights

LINES_COUNT = STEPS_COUNT + 3
"""Of ``metrics.jsonl``: one a step and one an epoch."""
KILLS_COUNT = 7
RECIPE = """
from dataclasses import replace

from tests.pipeline.training.small import everything


def recipe():
    wanted = everything("numbered", {workers_count})
    return replace(wanted, train=replace(wanted.train, accumulate=1, sharded={sharded}))
"""


def torchrun(folder: Path, out: str) -> subprocess.Popen[str]:
    """Two processes, which torchrun starts again when one of them dies."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--monitor-interval", "0.05"]
    return subprocess.Popen(
        [*launcher, "--max-restarts", str(KILLS_COUNT), "-m", "pipeline.train", "shared.py", "--out", out],
        cwd=folder, env=environ(OMP_NUM_THREADS="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill(launcher: subprocess.Popen[str], rank: int, base: Path, lines_count: int) -> None:
    """SIGKILL to a process by its rank, when ``metrics.jsonl`` has so many lines."""
    deadline_s = time.monotonic() + 120
    while sum(path.read_bytes().count(b"\n") for path in base.glob("*/*/.checkpoint.*/metrics.jsonl")) < lines_count:
        assert launcher.poll() is None, f"it ended before it could be killed: {launcher.communicate()}"
        assert time.monotonic() < deadline_s, "training did not get that far"
        time.sleep(0.001)
    (victim,) = (
        child
        for child in psutil.Process(launcher.pid).children()
        if child.is_running() and child.environ().get("RANK") == str(rank)
    )
    victim.kill()
    assert victim.wait(10) in (-signal.SIGKILL, None)


def ended(launcher: subprocess.Popen[str]) -> list[str]:
    """The lines of what the training said."""
    stdout, stderr = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, stdout + stderr
    return [line for line in stdout.splitlines() if line.startswith("train ")]


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("workers_count", [0, 2])
def test_kills_of_one_of_two_processes_at_random_steps_change_no_bit(
    workers_count: int, sharded: bool, tmp_path: Path
) -> None:
    (tmp_path / "shared.py").write_text(RECIPE.format(workers_count=workers_count, sharded=sharded))
    lines = ended(torchrun(tmp_path, "whole"))
    draw = random.Random(f"{workers_count} {sharded}")
    launcher = torchrun(tmp_path, "killed")
    try:
        for point in sorted(draw.sample(range(1, LINES_COUNT - 1), KILLS_COUNT)):
            kill(launcher, draw.randrange(2), tmp_path / "killed", point)
        said = ended(launcher)
    finally:
        launcher.terminate()
    (whole,), (killed,) = ([*(tmp_path / out).glob("small/*/checkpoint")] for out in ("whole", "killed"))
    assert same_bits(weights(killed), weights(whole))
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    resumed = [line for line in said if "resumed after epoch" in line]
    assert 0 < len(resumed) <= KILLS_COUNT
    assert list(dict.fromkeys(line for line in said if line not in resumed)) == lines
