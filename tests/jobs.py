"""Tasks for the worker's tests: each misbehaves in its own way."""

from __future__ import annotations

import atexit
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil

from export.task import task


@task
def double(payload: int) -> int:
    return 2 * payload


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Numbers that JSON does not have."""

    values: tuple[float, ...]


@task
def doubled(payload: Figures) -> Figures:
    return Figures(values=tuple(2 * value for value in payload.values))


@task
def where_bench_is(payload: str) -> str:
    import bench

    return str(bench.__file__)


@task
def fail(payload: str) -> None:
    raise ValueError(f"cannot do {payload}")


@task
def fail_because(payload: str) -> None:
    try:
        dict[str, int]()["the operator"]
    except KeyError as error:
        raise RuntimeError("\x1b[96mconversion failed\x1b[0m") from error


@task
def fill_the_disk(payload: str) -> None:
    try:
        Path("/dev/full").write_text("no room")
    except OSError as error:
        raise RuntimeError("the file was not written") from error


@task
def segfault(payload: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@task
def leave(payload: str) -> None:
    print("about to leave")
    os._exit(7)


@task
def hang(payload: str) -> None:
    """Writes its process id (and a grandchild's) where the test looks, then hangs."""
    import subprocess

    grandchild = subprocess.Popen(["sleep", "600"])
    Path(payload).write_text(f"{os.getpid()} {grandchild.pid}")
    time.sleep(600)


@task
def eat(payload: str) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1 << 20) * 16))
        time.sleep(0.01)


@task
def import_source(payload: str) -> str:
    import importlib

    return importlib.import_module(payload).__name__


@task
def lie(payload: int) -> int:
    return cast(int, "not a number")


@task
def leave_one_behind(payload: str) -> int:
    """A process with a session of its own, whose id it returns; and one that keeps its output open."""
    import subprocess

    subprocess.Popen(["sleep", "600"])
    return subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL).pid


@task
def flood(payload: int) -> None:
    """Prints so many MiB, then crashes."""
    print("first")
    for _ in range(payload):
        print("x" * ((1 << 20) - 1))
    print("last", flush=True)
    os.kill(os.getpid(), signal.SIGRTMIN + 3)


@task
def begin(payload: str) -> dict[str, str]:
    """What a child finds: whether torch is there already, whose child it is, a variable of the environment."""
    import sys

    parent = psutil.Process().parent()  # the leader
    return {
        "torch": str("torch" in sys.modules),
        "main": sys.modules["__main__"].__spec__.name,  # type: ignore[union-attr]  # started by -m
        "server": str(parent.ppid()),
        "folder": str(Path.cwd()),
        "variable": os.environ.get(payload, ""),
    }


class _Kept:
    """Writes a file when it is taken apart."""

    def __init__(self, file: Path) -> None:
        self._touch = file.touch

    def __del__(self) -> None:
        self._touch()


@task
def note_the_end(payload: str) -> None:
    """Leave files of what happens at the end of this process."""
    atexit.register((Path(payload) / "handler").touch)
    _KEPT.append(_Kept(Path(payload) / "taken apart"))


_KEPT: list[_Kept] = []
