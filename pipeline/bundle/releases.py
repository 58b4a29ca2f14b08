"""A serving folder: numbered bundles side by side, and ``current``, a symbolic link to the one that serves.

    DIR/1/  DIR/2/  DIR/3/  DIR/current -> 3

A new bundle is made beside the others under a hidden name, written through to the disk, moved to its number by one
rename and made current by another. Whatever happens in between, ``current`` is the old one, whole, or the new, whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from export.errors import UserError
from export.files import full_disk_named

CURRENT = "current"
_HIDDEN = ".incoming."
"""How the name of everything begins that is not finished, and goes with the next to open the folder."""
_VERSION = re.compile("[1-9][0-9]*")


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Path]:
    """The folder of releases, made if need be, held against others; what a killed process left unfinished is removed.

    Raises:
        UserError: it cannot be used, or another process is at it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(f"another process ships into {folder}: wait for it") from error
    except OSError as error:
        raise UserError(f"the serving folder {folder} cannot be used: {error.strerror}") from error
    try:
        for left in folder.glob(f"{_HIDDEN}*"):
            left.unlink() if left.is_symlink() else shutil.rmtree(left)
        with full_disk_named(folder):
            yield folder
    finally:
        lock.release()


def put(releases: Path, fill: Callable[[Path], None], keep_count: int) -> int:
    """Add what ``fill`` puts into a folder as the next version, make it current, and remove all but the newest.

    Returns the new version. ``fill`` may raise: nothing is changed then.
    """
    incoming = releases / f"{_HIDDEN}{os.getpid()}"
    try:
        incoming.mkdir()
        fill(incoming)
        _write_through(incoming)
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    version = max(versions(releases), default=0) + 1
    os.rename(incoming, releases / str(version))
    _write_through_folder(releases)
    switch(releases, version)
    for old in sorted(versions(releases))[: -max(keep_count, 1)]:
        if old != current(releases):
            shutil.rmtree(releases / str(old))
    return version


def temporary(releases: Path) -> Path:
    """A place in it for temporary files."""
    return releases / f"{_HIDDEN}tmp"


def switch(releases: Path, version: int) -> None:
    """Make one version current, by one rename."""
    link = releases / f"{_HIDDEN}link.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(str(version))
    os.replace(link, releases / CURRENT)
    _write_through_folder(releases)


def previous(releases: Path) -> int:
    """The version before the current one.

    Raises:
        UserError: there is none.
    """
    now = current(releases)
    if now is None:
        raise UserError(f"{releases} has no current version: ship one first")
    older = [version for version in versions(releases) if version < now]
    if not older:
        raise UserError(f"{releases} has no version before {now} to go back to")
    return max(older)


def versions(releases: Path) -> list[int]:
    """The numbers that there are."""
    return sorted(int(path.name) for path in releases.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir())


def current(releases: Path) -> int | None:
    """The number that serves; None if none does.

    Raises:
        UserError: the link leads to something else than a version.
    """
    link = releases / CURRENT
    if not link.is_symlink():
        return None
    target = os.readlink(link)
    if not _VERSION.fullmatch(target):
        raise UserError(f"{link} leads to {target!r}, and not to a version beside it: remove it, then ship again")
    return int(target)


def _write_through(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _write_through_folder(path)
    _write_through_folder(folder)


def _write_through_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
