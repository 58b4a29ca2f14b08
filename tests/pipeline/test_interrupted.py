"""Kills, Ctrl-C and two runs at once: nothing is lost, nothing is left, nothing is mixed up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import environ, pipeline
from tests.pipeline.conftest import latest

POINTS: list[tuple[str, Callable[[Path], bool]]] = [
    ("train", lambda run: _epoch(run) >= 10),
    ("capture", lambda run: (run / "log" / "capture.job.json").exists()),
    ("build", lambda run: (run / "log" / "build-onnx.job.json").exists()),
    ("reference", lambda run: (run / "log" / "reference.job.json").exists()),
    ("parity", lambda run: bool(list((run / "log").glob("parity-*.job.json")))),
    ("measure", lambda run: (run / "log" / "measure-1.job.json").exists()),
    ("judge", lambda run: (run / "verdict.json").exists()),
    ("bundle", lambda run: (run / ".bundle.partial").exists()),
]


def _any(reached: Callable[[Path], bool], base: Path) -> bool:
    return any(reached(run) for run in base.glob("*") if not run.is_symlink())


def _epoch(run: Path) -> int:
    states = list(run.glob(".checkpoint.*.partial/state.json"))
    return int(json.loads(states[0].read_bytes())["fields"]["epoch"]) if states else 0


@pytest.mark.slow
def test_a_run_killed_at_every_stage_is_picked_up_and_ends_as_if_never_killed(finished: Path, tmp_path: Path) -> None:
    for name in ("cheap.py", "net.py"):
        shutil.copy(finished / name, tmp_path / name)
    base = tmp_path / "artifacts" / "cheap"
    for stage, reached in POINTS:
        group = subprocess.Popen(
            [sys.executable, "-m", "pipeline.all", "cheap.py"], cwd=tmp_path, env=environ(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for(partial(_any, reached, base), group, stage)
        os.killpg(group.pid, signal.SIGKILL)
        group.wait()
        assert not (base / "latest").exists() or stage in ("judge", "bundle")
    done = pipeline("cheap.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("train    reused", "capture  reused", "measured "):
        assert stage in done.stdout
    (run,) = [path for path in base.iterdir() if not path.is_symlink()]
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    for name in ("checkpoint/weights.safetensors", "checkpoint/metrics.jsonl"):
        assert (run / name).read_bytes() == (latest(finished) / name).read_bytes()


@pytest.mark.parametrize(
    "whole_group",
    [
        pytest.param(True, id="as the terminal does"),
        pytest.param(False, id="the parent alone", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_keeps_what_is_done_and_leaves_no_child(whole_group: bool, mine: Path) -> None:
    base = mine / "artifacts" / "cheap"
    group = subprocess.Popen(
        [sys.executable, "-m", "pipeline.all", "cheap.py", "--seed", "9"], cwd=mine, env=environ(), text=True,
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    _wait_for(partial(_any, lambda run: (run / "log" / "build-onnx.job.json").exists(), base), group, "build")
    (os.killpg if whole_group else os.kill)(group.pid, signal.SIGINT)
    _, errors = group.communicate(timeout=600)  # against a hang alone: how soon is tests/measure/speed.py's matter
    assert group.returncode == 130
    assert "interrupted: what was done is kept" in errors
    assert "Traceback" not in errors
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if str(mine) in " ".join(process.info["cmdline"] or [])
    ]
    done = pipeline("cheap.py", "--seed", "9", "--only", "build", cwd=mine)
    assert "train    reused" in done.stdout


def test_what_a_killed_process_left_unfinished_is_swept_away(mine: Path) -> None:
    run = latest(mine)
    left = [run / "log" / ".build-onnx.sh.abc", run / ".verdict.json.abc", run / "artifacts" / ".onnx.partial"]
    for path in left[:2]:
        path.write_text("half")
    left[2].mkdir()
    (left[2] / "model.onnx").write_text("half")
    assert pipeline("cheap.py", cwd=mine).returncode == 0
    assert not [path for path in left if path.exists()]


def test_two_runs_of_the_same_thing_do_not_meet(mine: Path) -> None:
    import filelock

    with filelock.FileLock(latest(mine) / ".lock"):
        done = pipeline("cheap.py", cwd=mine)
    assert done.returncode == 2
    assert "another process works on this very run" in done.stderr
    assert pipeline("cheap.py", cwd=mine).returncode == 0


def _wait_for(condition: Callable[[], bool], group: subprocess.Popen[Any], stage: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert group.poll() is None, f"the run ended before {stage}"
        assert time.monotonic() < deadline, f"{stage} was never reached"
        time.sleep(0.005)
