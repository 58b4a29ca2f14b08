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
        members = _of_tar(path)
    elif path.suffix in (".pt2", ".ts"):
        members = _of_zip(path)
    else:
        return
    if len(members) > _MEMBERS_COUNT:
        raise Refused(f"{path.name} has {len(members)} members, no artifact has so many")
    for name, _ in members:
        if not is_inside(name):
            raise Refused(f"{path.name} holds {name[:200]!r}, which would be unpacked elsewhere")
    unpacked = sum(size for _, size in members)
    if unpacked > max(_UNPACKED_BYTES, _UNPACKED_RATIO * path.stat().st_size):
        raise Refused(f"{path.name} would unpack to {unpacked} bytes")


def _of_zip(path: Path) -> list[tuple[str, int]]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [(one.filename.rstrip("/"), one.file_size) for one in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise Refused(f"{path.name} is truncated or no archive: {error}") from None


def _of_tar(path: Path) -> list[tuple[str, int]]:
    found = []
    try:
        with tarfile.open(path, "r:") as archive:
            for one in archive:
                if not (one.isfile() or one.isdir()):
                    raise Refused(f"{path.name} holds {one.name[:200]!r}, which is not a regular file")
                if one.name != ".":
                    found.append((one.name[2:] if one.name.startswith("./") else one.name, one.size))
                if len(found) > _MEMBERS_COUNT:
                    break
    except (tarfile.TarError, OSError, ValueError) as error:
        raise Refused(f"{path.name} is truncated or no archive: {error}") from None
    return found
