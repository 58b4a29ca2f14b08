"""Files on disk: their paths as records name them, their digests, and how they are written and published whole."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.errors import NO_SPACE, RecordError, causes

_CHUNK_BYTES = 1 << 20
_NOT_PLAIN = re.compile(r'[\\:\x00-\x1f\x7f"<>|*?]')
_PATH_LENGTH = 1024
_FULL_BYTES = 1 << 16
"""What a file system may keep back where it is full."""


def _umask() -> int:
    """The mask of this process, which can only be read by setting it: once, before there are threads."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_FILE_MODE = 0o666 & ~_umask()


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """One file of a record: where it is, how large, and what it holds."""

    path: str
    """Relative to the folder of the record and inside of it, POSIX separators."""
    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not is_inside(self.path):
            raise ValueError(f"a path of a record must be relative and lead below its folder, got {self.path[:200]!r}")


def is_inside(path: str) -> bool:
    """Whether a text is a plain relative POSIX path that stays in its folder on every system."""
    plain = all(part not in ("", ".", "..") and not _NOT_PLAIN.search(part) for part in path.split("/"))
    return plain and len(path) <= _PATH_LENGTH


def is_folder_name(name: str) -> bool:
    """Whether a name that a user chose can be that of a recipe's or an artifact's folder."""
    return bool(name) and name[0] not in ".-" and all(letter.isalnum() or letter in "-_." for letter in name)


def plain_name(name: str) -> str:
    """A name out of a record, where it becomes a part of a path.

    Raises:
        RecordError: it would lead elsewhere.
    """
    if "/" in name or not is_inside(name):
        raise RecordError(f"{name[:200]!r} cannot be the name of a file")
    return name


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path``, flush it to disk, rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _FILE_MODE)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def is_full(folder: Path) -> bool:
    """Whether there is no room left where the folder lies."""
    return shutil.disk_usage(folder).free < _FULL_BYTES


def no_space(error: BaseException) -> bool:
    """Whether an error, or what caused it, is that of a full disk: by its number, or in the words of a compiler."""
    words = os.strerror(errno.ENOSPC)
    return any((isinstance(link, OSError) and link.errno in NO_SPACE) or words in str(link) for link in causes(error))


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Libraries have many errors for a full disk, some of which blame what they write: it becomes the system's own.

    Raises:
        OSError: something failed inside, and there is no room left where the folder lies.
    """
    try:
        yield
    except Exception as error:
        is_systems = isinstance(error, OSError) and error.errno in NO_SPACE
        if not is_systems and (no_space(error) or is_full(folder)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def publish(folder: Path, target: Path) -> None:
    """Move a finished folder into place by one rename; what was there goes first (it was stale, or not whole)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    os.rename(folder, target)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, hex, read in chunks."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def digest_files(root: Path, paths: Iterable[Path]) -> tuple[FileDigest, ...]:
    """The digests of ``paths`` relative to ``root``, sorted by path."""
    files = sorted(path.relative_to(root).as_posix() for path in paths)
    return tuple(
        FileDigest(path=name, size_bytes=(root / name).stat().st_size, sha256=digest_file(root / name))
        for name in files
    )


def verify_files(root: Path, files: Iterable[FileDigest]) -> None:
    """Check every named file against its digest.

    Raises:
        RecordError: names each file that is missing, a symlink, or changed.
    """
    wrong = []
    for file in files:
        path = root / file.path
        if path.is_symlink() or not path.is_file():
            wrong.append(f"{path} is missing or not a regular file")
        elif path.stat().st_size != file.size_bytes or digest_file(path) != file.sha256:
            wrong.append(f"{path} is not the file that was recorded (SHA-256 {file.sha256[:12]}...)")
    if wrong:
        raise RecordError("; ".join(wrong))
