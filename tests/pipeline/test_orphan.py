"""The process in which the check runs an artifact ends with the check, however that ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import environ

GONE_S = 2.0


def ends(process: psutil.Process, within_s: float = GONE_S) -> bool:
    deadline_s = time.monotonic() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


def awaited(found: Callable[[], list[psutil.Process]]) -> psutil.Process:
    deadline_s = time.monotonic() + 60
    while not (processes := found()):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    return processes[0]


def test_the_process_of_an_artifact_ends_with_a_killed_check(built: Path) -> None:
    check = subprocess.Popen([sys.executable, "-m", "pipeline.verify", built / "bundle"], env=environ())
    child = awaited(lambda: [one for one in psutil.Process(check.pid).children() if "--child" in one.cmdline()])
    awaited(lambda: [child] if "numpy" in Path(f"/proc/{child.pid}/maps").read_text() else [])  # it is at its job
    child.suspend()  # so that it does not end by itself
    check.kill()
    check.wait()
    assert ends(child)


@pytest.mark.parametrize("led", [True, False], ids=["led", "the twin"])
def test_it_is_the_kernels_promise(led: bool) -> None:
    promise = "from pipeline.verifier.orphan import die_with; die_with(os.getppid())" if led else "pass"
    child = f"import os, time; {promise}; print('ready', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", parent], env=environ(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (orphan,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert ends(orphan) is led
    if not led:
        orphan.kill()
