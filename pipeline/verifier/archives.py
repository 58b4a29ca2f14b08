"""Archives inside a bundle: what torch would unpack is looked at before it does."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from pipeline.verifier.files import is_inside
from pipeline.verifier.outcome import Refused

_UNPACKED_RATIO, _UNPACKED_BYTES = 200, 64 << 20
"""No weights or code shrink by so much; below so many bytes it does not matter."""
_MEMBERS_COUNT = 100_000


def scan_archive(path: Path) -> None:
    """Refuse an archive whose members leave its folder, are links, or grow beyond what they can hold.

    Raises:
        Refused: names the archive and the member.
    """
    if path.suffix == ".tar":
        members = _tar_members(path)
    elif path.suffix in (".pt2", ".ts"):
        members = _zip_members(path)
    else:
        return
    if len(members) > _MEMBERS_COUNT:
        raise Refused(f"{path.name} has {len(members)} members, no artifact has so many")
    for name, _ in members:
        if not is_inside(name):
            raise Refused(f"{path.name} holds {name[:200]!r}, which would be unpacked elsewhere")
    unpacked_bytes = sum(size_bytes for _, size_bytes in members)
    if unpacked_bytes > max(_UNPACKED_BYTES, _UNPACKED_RATIO * path.stat().st_size):
        raise Refused(f"{path.name} would unpack to {unpacked_bytes} bytes")


def _zip_members(path: Path) -> list[tuple[str, int]]:
    """Name and unpacked size in bytes of every member."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [(member.filename.rstrip("/"), member.file_size) for member in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise Refused(f"{path.name} is truncated or no archive: {error}") from None


def _tar_members(path: Path) -> list[tuple[str, int]]:
    """The same of a tar, up to one more than are allowed."""
    members = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not (member.isfile() or member.isdir()):
                    raise Refused(f"{path.name} holds {member.name[:200]!r}, which is not a regular file")
                if member.name != ".":
                    name = member.name[2:] if member.name.startswith("./") else member.name
                    members.append((name, member.size))
                if len(members) > _MEMBERS_COUNT:
                    break
    except (tarfile.TarError, OSError, ValueError) as error:
        raise Refused(f"{path.name} is truncated or no archive: {error}") from None
    return members
