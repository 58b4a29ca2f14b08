"""Jobs for the worker's tests: each misbehaves in its own way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def double(payload: Any) -> Any:
    return 2 * payload


def fail(payload: Any) -> None:
    raise ValueError(f"cannot do {payload}")


def fail_because(payload: Any) -> None:
    try:
        dict[str, int]()["the operator"]
    except KeyError as error:
        raise RuntimeError("\x1b[96mconversion failed\x1b[0m") from error


def fill_the_disk(payload: Any) -> None:
    try:
        Path("/dev/full").write_text("no room")
    except OSError as error:
        raise RuntimeError("the file was not written") from error


def segfault(payload: Any) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(payload: Any) -> None:
    print("about to leave")
    os._exit(7)


def hang(payload: Any) -> None:
    """Writes its process id (and a grandchild's) where the test looks, then hangs."""
    import subprocess

    grandchild = subprocess.Popen(["sleep", "600"])
    Path(payload).write_text(f"{os.getpid()} {grandchild.pid}")
    time.sleep(600)


def eat(payload: Any) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1 << 20) * 16))
        time.sleep(0.01)


def import_source(payload: Any) -> Any:
    import importlib

    return importlib.import_module(payload).__name__
