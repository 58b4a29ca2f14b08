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

from export.device import Device
from export.environment import cores_count

_PROCESS_BYTES = 3 << 29
"""What a process holds besides the candidates, with a margin: 1.5 GiB."""
_COPIES_COUNT = 4
"""So often a process may hold an artifact's bytes: as the artifact, as its A/A control, folded, and while it loads."""
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Where a process learns that it is its turn."""

    lock: str
    """The file that is locked; it holds the batch sizes that were too slow in an earlier turn, as JSON."""
    loaded: str
    """The file that the process leaves when it has loaded."""


def loads_at_once(folders: Sequence[Path], where: Device, processes_count: int) -> int:
    """How many processes may hold every artifact at once: two a core, in half of the free memory; on a GPU one."""
    if where.asynchronous or sys.platform == "win32":  # fcntl is POSIX's
        return 1
    artifacts_bytes = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    each_bytes = _PROCESS_BYTES + _COPIES_COUNT * artifacts_bytes
    room_count: int = psutil.virtual_memory().available // 2 // each_bytes
    return max(1, min(processes_count, 2 * cores_count(), room_count))


@contextlib.contextmanager
def before_the_first(turns: Sequence[Turn]) -> Iterator[None]:
    """Nobody's turn: processes that start in here load, and wait."""
    if not turns:
        yield
        return
    lock = Path(turns[0].lock)
    lock.write_text("[]", encoding="utf-8")
    with _locked(lock):
        yield


def wait_loaded(turns: Sequence[Turn], processes: Sequence[Future[Any]]) -> None:
    """Until every process that takes a turn has loaded, or one has ended."""
    while not all(Path(turn.loaded).exists() for turn in turns) and not any(process.done() for process in processes):
        time.sleep(_POLL_S)


@contextlib.contextmanager
def taken(turn: Turn | None) -> Iterator[set[int]]:
    """Say that this process has loaded, and wait for its turn; None: it is alone.

    Yields the batch sizes that were too slow so far, for this process to add to.
    """
    if turn is None:
        yield set()
        return
    lock = Path(turn.lock)
    Path(turn.loaded).touch()
    with _locked(lock):
        too_slow = set(json.loads(lock.read_text(encoding="utf-8")))
        yield too_slow
        lock.write_text(json.dumps(sorted(too_slow)), encoding="utf-8")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
