"""Processes that load side by side, and are timed in turn.

Loading keeps one core busy for seconds, timing needs the machine for itself. A lock on a file keeps the turns: the
parent holds it until every process has loaded, then the processes have it one after another. The system frees it
however a process ends, and who waits for it takes no time from the one that is timed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.timing.contender import Candidate
from export.device import Device
from export.environment import cores_count

_PROCESS_BYTES = 3 << 29
"""What a process holds besides the candidates, with a margin: 1.5 GiB."""
_COPIES_COUNT = 2
"""So often a candidate may hold its artifact's bytes: as it is, and folded or while it loads."""
_CGROUP = Path("/sys/fs/cgroup")
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Where a process learns that it is its turn."""

    lock: str
    """The file that is locked."""
    too_slow: str
    """A file with the batch sizes that were too slow in an earlier turn, as JSON."""
    loaded: str
    """The file that the process leaves when it has loaded."""


def loads_at_once(candidates: Sequence[Candidate], where: Device, processes_count: int, scratch: Path) -> int:
    """How many processes may hold every candidate at once: two a core, in half of the free memory.

    One on a GPU, and where the file system of ``scratch`` has no locks.
    """
    if where.asynchronous or not _has_locks(scratch):
        return 1
    each_bytes = _PROCESS_BYTES + _COPIES_COUNT * sum(_size_bytes(Path(candidate.folder)) for candidate in candidates)
    return max(1, min(processes_count, 2 * cores_count(), _free_bytes() // 2 // each_bytes))


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _free_bytes() -> int:
    """What the machine has left, or a container of what it may take."""
    free: int = psutil.virtual_memory().available
    try:
        most, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no such limit here, or "max"
        return free
    return max(0, min(free, most - used))


def _has_locks(folder: Path) -> bool:
    if sys.platform == "win32":  # fcntl is POSIX's
        return False
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / "measure.probe"
    try:
        with _locked(probe):
            return True
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)


@contextlib.contextmanager
def before_the_first(turns: Sequence[Turn]) -> Iterator[None]:
    """Nobody's turn: processes that start in here load, and wait."""
    if not turns:
        yield
        return
    with _locked(Path(turns[0].lock)):
        yield


def wait_loaded(turns: Sequence[Turn], processes: Sequence[Future[Any]], limit_s: float) -> bool:
    """Until every process that takes a turn has loaded, or one has ended; False if that takes longer than it may."""
    deadline = time.monotonic() + limit_s
    while not all(Path(turn.loaded).exists() for turn in turns) and not any(process.done() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


@contextlib.contextmanager
def taken(turn: Turn | None) -> Iterator[set[int]]:
    """Say that this process has loaded, and wait for its turn; None: it is alone.

    Yields the batch sizes that were too slow so far, for this process to add to.
    """
    if turn is None:
        yield set()
        return
    Path(turn.loaded).touch()
    with _locked(Path(turn.lock)):
        file = Path(turn.too_slow)
        too_slow = set(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else set()
        yield too_slow
        file.write_text(json.dumps(sorted(too_slow)), encoding="utf-8")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("ab") as file:  # which NFS asks for
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
