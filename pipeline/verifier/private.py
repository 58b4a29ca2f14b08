"""Folders of the check's own: what was hashed is what is loaded, whatever happens meanwhile to the place it came from.

Each lies in the folder for temporary files, readable by nobody else, and holds a lock while it is in use. One that a
killed check left behind goes with the next check.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "torchstone-verify-"
_LOCK = ".lock"
_YOUNG_S = 60.0
"""A folder younger than this may not be locked yet."""


@contextlib.contextmanager
def private_folder(prefix: str = PREFIX) -> Iterator[Path]:
    """An empty folder that only this user can enter; gone at the end."""
    sweep(Path(tempfile.gettempdir()), prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        _lock(descriptor)
        inside = folder / "in"
        inside.mkdir()
        yield inside
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def sweep(place: Path, prefix: str = PREFIX) -> None:
    """Remove the folders in ``place`` that nobody holds any more."""
    for folder in place.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if time.time() - folder.lstat().st_mtime > _YOUNG_S and _is_free(folder / _LOCK):
                shutil.rmtree(folder)


def _is_free(lock: Path) -> bool:
    """Whether no process holds the lock; also if there is none, which a kill in the first moment leaves."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        return _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock without waiting; False where it is held, or where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
