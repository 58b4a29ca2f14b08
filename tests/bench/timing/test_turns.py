"""Processes that load side by side are timed one at a time, whatever becomes of the others."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.timing.processes.turns import Turn, before_the_first, loads_at_once, wait_loaded
from export.device import device
from tests.conftest import ROOT, environ

COUNT = 3
CHILD = """
import json, os, sys, time
from pathlib import Path
from bench.timing.processes.turns import Turn, taken
name, lock, waits = sys.argv[1:]
turn = Turn(lock=lock, loaded=f"{name}.loaded") if waits == "in turn" else None
with taken(turn) as too_slow:
    began = time.monotonic()
    Path(f"{name}.began").touch()
    while Path(lock).with_name("hold").exists():
        time.sleep(0.01)
    seen = sorted(too_slow)
    too_slow.add(int(Path(name).name))
    Path(f"{name}.json").write_text(json.dumps([began, time.monotonic(), seen]))
"""


@contextmanager
def children(folder: Path, how: str) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Three of them, each in a group of its own; when the block begins all have loaded."""
    turns = [Turn(lock=str(folder / "lock"), loaded=str(folder / f"{number}.loaded")) for number in range(COUNT)]
    with ThreadPoolExecutor(COUNT) as pool:
        with before_the_first(turns):
            started = [
                subprocess.Popen(
                    [sys.executable, "-c", CHILD, str(folder / str(number)), str(folder / "lock"), how],
                    cwd=ROOT,
                    env=environ(),
                    start_new_session=True,
                )
                for number in range(COUNT)
            ]
            ends = [pool.submit(child.wait) for child in started]
            if how == "in turn":
                wait_loaded(turns, ends)
                time.sleep(0.05)
                assert not list(folder.glob("*.began"))  # all wait for the parent
        yield started


def turns_taken(folder: Path) -> list[tuple[float, float, list[int]]]:
    return sorted(json.loads(file.read_text()) for file in folder.glob("*.json"))


@pytest.mark.parametrize("how", ["in turn", "at will"])
def test_turns_do_not_overlap_and_what_was_too_slow_is_passed_on(tmp_path: Path, how: str) -> None:
    (tmp_path / "hold").touch()
    with children(tmp_path, how) as started:
        while len(list(tmp_path.glob("*.began"))) < (1 if how == "in turn" else COUNT):
            time.sleep(0.01)
        (tmp_path / "hold").unlink()
        assert [child.wait(30) for child in started] == [0] * COUNT
    taken = turns_taken(tmp_path)
    apart = all(before[1] <= after[0] for before, after in itertools.pairwise(taken))
    assert apart == (how == "in turn")
    assert [len(seen) for _, _, seen in taken] == ([0, 1, 2] if how == "in turn" else [0, 0, 0])


def test_a_process_that_is_killed_in_its_turn_gives_it_up(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with children(tmp_path, "in turn") as started:
        while not (began := list(tmp_path.glob("*.began"))):
            time.sleep(0.01)
        os.killpg(started[int(began[0].stem)].pid, signal.SIGKILL)
        (tmp_path / "hold").unlink()
        assert sorted(child.wait(30) for child in started) == [-signal.SIGKILL, 0, 0]
    assert [len(seen) for _, _, seen in turns_taken(tmp_path)] == [0, 1]


def test_as_many_load_at_once_as_memory_holds_and_on_a_gpu_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(gibibytes: int) -> None:
        memory = type("Memory", (), {"available": gibibytes << 30})
        monkeypatch.setattr("psutil.virtual_memory", lambda: memory)

    with (tmp_path / "model.bin").open("wb") as file:
        file.truncate(1 << 30)  # holds no block of the disk
    free(24)
    assert loads_at_once([tmp_path], device("cpu"), 3) == 2
    assert loads_at_once([], device("cpu"), 3) == 3
    assert loads_at_once([], device("cuda"), 3) == 1
    free(2)
    assert loads_at_once([tmp_path], device("cpu"), 3) == 1
