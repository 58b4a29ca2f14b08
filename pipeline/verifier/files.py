"""The manifest, and a folder held against it: every file as listed, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pipeline.verifier.outcome import Refused, Unable, parse_json

MANIFEST, SIGNATURE = "manifest.json", "model.sig"
MANIFEST_SCHEMA = "torchstone.manifest/1"
_FILES_COUNT, _DEPTH, _PATH_LENGTH = 100_000, 32, 1024
_BLOCK_BYTES = 1 << 20
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""A link or a pipe that took the file's place since the folder was walked is not followed, nor waited for."""


class Listed(NamedTuple):
    """One file of the manifest."""

    path: str
    size_bytes: int
    sha256: str


def read_manifest(data: bytes) -> list[Listed]:
    """The files that a manifest lists.

    Raises:
        Refused: not a manifest of this schema in canonical form, or a path that could leave the folder.
    """
    fields = parse_json(data, MANIFEST)
    if not isinstance(fields, dict) or fields.get("schema") != MANIFEST_SCHEMA:
        raise Refused(f"{MANIFEST} must have the schema {MANIFEST_SCHEMA!r}")
    if fields.keys() != {"schema", "key", "files"} or not isinstance(fields["key"], str):
        raise Refused(f"{MANIFEST} must have the members schema, key and files, got {sorted(fields)}")
    if _canonical(fields) != data:
        raise Refused(f"{MANIFEST} is not in canonical form: it was edited")
    files = fields["files"]
    if not isinstance(files, list) or not 0 < len(files) <= _FILES_COUNT:
        raise Refused(f"{MANIFEST} must list between 1 and {_FILES_COUNT} files")
    listed = [_listed(entry) for entry in files]
    paths = [file.path for file in listed]
    if paths != sorted(paths):
        raise Refused(f"{MANIFEST} must list files in order of their paths")
    seen: dict[str, str] = {}
    for path in paths:
        if (other := seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)) is not path:
            raise Refused(f"{MANIFEST} lists {path!r} and {other!r}, which are one file on some systems")
    return listed


def _listed(entry: Any) -> Listed:
    if not isinstance(entry, dict) or entry.keys() != {"path", "size_bytes", "sha256"}:
        raise Refused(f"{MANIFEST}: every file must have path, size_bytes and sha256, got {str(entry)[:100]}")
    path, size_bytes, sha256 = entry["path"], entry["size_bytes"], entry["sha256"]
    if not isinstance(path, str) or not is_inside(path) or path in (MANIFEST, SIGNATURE):
        raise Refused(f"{MANIFEST}: {str(path)[:200]!r} is not a relative path within the bundle")
    if type(size_bytes) is not int or not 0 <= size_bytes < 1 << 53:
        raise Refused(f"{MANIFEST}: size_bytes of {path} must be a number of bytes, got {str(size_bytes)[:50]}")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise Refused(f"{MANIFEST}: sha256 of {path} must be 64 hex digits, got {str(sha256)[:100]!r}")
    return Listed(path, size_bytes, sha256)


def is_inside(path: str) -> bool:
    """Whether a text is a plain relative POSIX path that stays in its folder on every system."""
    parts = path.split("/")
    plain = all(part not in ("", ".", "..") and not re.search(r'[\\:\x00-\x1f"<>|*?]', part) for part in parts)
    return plain and len(path) <= _PATH_LENGTH and len(parts) <= _DEPTH


def verify_files(
    folder: Path, listed: Sequence[Listed], progress: Callable[[int], None] = lambda _: None, copy: Path | None = None
) -> None:
    """Check that the folder holds the listed files, unchanged, and nothing else; sizes first, since they cost nothing.

    ``progress`` hears how many more bytes were read. With ``copy``, the very bytes that were hashed are written there.

    Raises:
        Refused: names a file that is missing, added, changed, or not a regular file.
        Unable: a file cannot be read, or its copy not be written.
    """
    by_path = {file.path: file for file in listed}
    empty_folders: list[str] = []
    try:
        present = dict(_walk(folder, len(listed) + 2, empty_folders))
    except OSError as error:
        raise _unreadable(error) from None
    for unlisted in (MANIFEST, SIGNATURE):
        present.pop(unlisted, None)
    if added := sorted(present.keys() - by_path.keys()):
        raise Refused(f"{added[0]} is not in the manifest" + (f", nor are {len(added) - 1} more" if added[1:] else ""))
    if missing := sorted(by_path.keys() - present.keys()):
        raise Refused(f"{missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else ""))
    if empty_folders:
        raise Refused(f"the folder {empty_folders[0]} is empty, a bundle has none")
    for path, size_bytes in present.items():
        if size_bytes != by_path[path].size_bytes:
            raise Refused(f"{path} has {size_bytes} bytes, the manifest says {by_path[path].size_bytes}")
    first = {file.sha256: file for file in reversed(listed)}

    def check(file: Listed) -> None:
        target = copy / file.path if copy is not None and first[file.sha256] is file else None
        if _sha256(folder / file.path, file.size_bytes, progress, target) != file.sha256:
            raise Refused(f"{file.path} is not the file that was shipped: its SHA-256 differs")

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(check, listed))
    if copy is not None:
        for file in listed:
            if first[file.sha256] is not file:  # stored once, as in most bundles
                link_or_copy(copy / first[file.sha256].path, copy / file.path)


def _walk(folder: Path, most: int, empty_folders: list[str]) -> Iterator[tuple[str, int]]:
    """Every file below a folder with its size in bytes, following nothing; gives up soon after ``most``.

    Fills ``empty_folders``.
    """
    pending, files_count, folders_count = [""], 0, 0
    while pending:
        prefix = pending.pop()
        entries_count = 0
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                entries_count += 1
                path = prefix + entry.name
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    folders_count += 1
                    if path.count("/") >= _DEPTH or folders_count > _FILES_COUNT:
                        raise Refused(f"{path[:200]}: folders are nested or many beyond any bundle")
                    pending.append(path + "/")
                elif stat.S_ISREG(status.st_mode):
                    files_count += 1
                    if files_count > most:
                        raise Refused(f"there are more files than the manifest lists, such as {path}")
                    yield path, status.st_size
                else:
                    kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
                    raise Refused(f"{path} is {kind}")
        if prefix and not entries_count:
            empty_folders.append(prefix)


def _sha256(path: Path, size_bytes: int, progress: Callable[[int], None], target: Path | None) -> str:
    """The digest of a file, of which no more is read than its size; what was read is written to ``target``."""
    digest = hashlib.sha256()
    with _sink(target) as sink:
        for block in _blocks(path, size_bytes):
            digest.update(block)
            if sink is not None:
                sink.write(block)
            progress(len(block))
    return digest.hexdigest()


def _blocks(path: Path, size_bytes: int) -> Iterator[bytes]:
    """The first so many bytes of a regular file.

    Raises:
        Refused: it is something else.
        Unable: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_LINK)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Refused(f"{path} is not a regular file")
            while size_bytes and (block := file.read(min(size_bytes, _BLOCK_BYTES))):
                yield block
                size_bytes -= len(block)
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> Exception:
    """What follows from a file that the folder has, and that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return Refused(f"{error.filename} went away while the bundle was checked")
    return Unable(f"{error.filename} cannot be read: {error.strerror}")


@contextlib.contextmanager
def _sink(target: Path | None) -> Iterator[BinaryIO | None]:
    """The file to write to, if one is wanted.

    Raises:
        Unable: it cannot be written, with the remedy.
    """
    if target is None:
        yield None
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as sink:
            yield sink
    except OSError as error:
        place = tempfile.gettempdir()
        raise Unable(
            f"the check works on a copy of the bundle, which {place} cannot take: {error.strerror}. "
            "Free some of it, or let TMPDIR name a folder with more room"
        ) from None


def link_or_copy(source: Path, target: Path) -> None:
    """One file in two places, stored once where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _canonical(value: Any) -> bytes:
    """The bytes that RFC 8785 gives to what a manifest holds: texts and whole numbers, under ASCII names."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (ValueError, RecursionError):
        return b""
