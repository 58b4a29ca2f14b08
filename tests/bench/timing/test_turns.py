"""Processes that load side by side are timed one at a time, whatever becomes of the others."""

import errno
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
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.timing.contender import Candidate
from bench.timing.processes import turns
from bench.timing.processes.session import Session
from bench.timing.processes.together import Culprit, sample_processes
from bench.timing.processes.turns import Turn, before_the_first, loads_at_once, wait_loaded
from bench.timing.spec import BenchSpec
from export.backend import LoadOptions
from export.device import device
from export.worker import ProcessLimits, Workspace
from tests.conftest import ROOT, Builder, environ
from tests.models import source

COUNT = 3
CHILD = """
import json, os, sys, time
from pathlib import Path
from bench.timing.processes.turns import Turn, taken
name, lock, waits = sys.argv[1:]
turn = Turn(lock=lock, too_slow=f"{lock}.slow", loaded=f"{name}.loaded") if waits == "in turn" else None
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
    lock = str(folder / "lock")
    waiting = [
        Turn(lock=lock, too_slow=f"{lock}.slow", loaded=str(folder / f"{number}.loaded")) for number in range(COUNT)
    ]
    with ThreadPoolExecutor(COUNT) as pool:
        with before_the_first(waiting):
            started = [
                subprocess.Popen(
                    [sys.executable, "-c", CHILD, str(folder / str(number)), lock, how],
                    cwd=ROOT,
                    env=environ(),
                    start_new_session=True,
                )
                for number in range(COUNT)
            ]
            ends = [pool.submit(child.wait) for child in started]
            if how == "in turn":
                assert wait_loaded(waiting, ends, limit_s=60)
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


@pytest.mark.slow  # the limit is waited for
def test_who_hangs_in_its_turn_is_named_though_the_others_wait_as_long(build_model: Builder, tmp_path: Path) -> None:
    """The limit is of a turn; an artifact whose graph never ends is in its own when it passes."""
    good = build_model("Mlp", "onnx")[0]
    endless = replace(source("Mlp"), function="tests.bench.timing.test_turns:endless")
    session = Session(
        folders={"onnx": good, "eager": build_model("Mlp", "eager")[0]},
        options={name: LoadOptions(threads_count=1) for name in ("onnx", "eager")},
        source=endless,
        program=None,
        spec=BenchSpec(batch_rows=(1,), processes_count=2, rounds_count=5, warmup_s=0.01),
        samples=None,
        seed=0,
        key="k",
    )
    candidates = tuple(
        Candidate(label=name, folder=str(folder), options=session.options[name])
        for name, folder in session.folders.items()
    )
    workspace = Workspace(folder=tmp_path, limits=ProcessLimits(wall_s=40))
    culprit = sample_processes(session, candidates, workspace, lambda _: None)
    assert isinstance(culprit, Culprit)
    assert (culprit.label, culprit.end.summary) == ("eager", "timeout: stopped after its limit of 40 s")


def endless(argument: str) -> nn.Module:
    """A model whose call never ends, where it is measured."""
    return Endless()


class Endless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while True:
            time.sleep(0.1)


def test_as_many_load_at_once_as_memory_holds_and_on_a_gpu_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(gibibytes: int) -> None:
        memory = type("Memory", (), {"available": gibibytes << 30})
        monkeypatch.setattr("psutil.virtual_memory", lambda: memory)

    def count(where: str, *folders: Path) -> int:
        candidates = [Candidate(label=folder.name, folder=str(folder), options=LoadOptions()) for folder in folders]
        return loads_at_once(candidates, device(where), 3, tmp_path / "scratch")

    monkeypatch.setattr(turns, "_CGROUP", tmp_path / "cgroup")
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / "model.bin").open("wb") as file:
        file.truncate(1 << 30)  # holds no block of the disk
    free(24)
    assert count("cpu", tmp_path / "model") == 3
    assert count("cpu", *[tmp_path / "model"] * 2) == 2  # an artifact that is loaded twice
    assert count("cuda") == 1
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup" / "memory.max").write_text("max\n")
    (tmp_path / "cgroup" / "memory.current").write_text(f"{1 << 30}\n")
    assert count("cpu", tmp_path / "model") == 3
    (tmp_path / "cgroup" / "memory.max").write_text(f"{5 << 30}\n")  # a container of 5 GiB on that machine
    assert count("cpu", tmp_path / "model") == 1


def test_where_the_file_system_has_no_locks_one_loads_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    assert loads_at_once([], device("cpu"), 3, tmp_path) == 3
    monkeypatch.setattr("fcntl.flock", refused)
    assert loads_at_once([], device("cpu"), 3, tmp_path) == 1
