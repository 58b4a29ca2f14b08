"""Archives inside a bundle: what torch would unpack is looked at before it does."""

from __future__ import annotations

import tarfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pipeline.verifier.files import is_inside
from pipeline.verifier.outcome import Refused
from pipeline.verifier.zip_layout import MEMBERS_COUNT, Member, zip_members

_UNPACKED_RATIO, _UNPACKED_BYTES = 200, 64 << 20
"""No weights or code shrink by so much; below so many bytes it does not matter."""


def scan_archive(path: Path) -> None:
    """Refuse an archive that readers can disagree on, or whose members leave its folder, are links, or grow too much.

    Raises:
        Refused: names the archive and the member.
    """
    if path.suffix == ".tar":
        unpacked_bytes = sum(member.size for member in _tar_members(path))
    elif path.suffix in (".pt2", ".ts"):
        unpacked_bytes = sum(member.size_bytes for member in torch_members(path))
    else:
        return
    if unpacked_bytes > max(_UNPACKED_BYTES, _UNPACKED_RATIO * path.stat().st_size):
        raise Refused(f"{path.name} would unpack to {unpacked_bytes} bytes")


def torch_members(path: Path) -> list[Member]:
    """The members of a ``.pt2`` or ``.ts`` file, all in one folder.

    Raises:
        Refused: an archive that torch does not write like that.
    """
    members = zip_members(path)
    _refuse_names(path, (member.name for member in members))
    folder = members[0].name.partition("/")[0] if members else ""
    for member in members:
        if not member.name.startswith(f"{folder}/"):
            raise Refused(f"{path.name} holds {member.name[:200]!r} outside of its folder {folder[:200]!r}")
        if path.suffix == ".pt2" and not member.is_stored:
            raise Refused(f"{path.name} holds {member.name[:200]!r} compressed, torch stores it as it is")
    return members


def _tar_members(path: Path) -> list[tarfile.TarInfo]:
    """Files and folders of a tar."""
    members = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not (member.isfile() or member.isdir()):
                    raise Refused(f"{path.name} holds {member.name[:200]!r}, which is not a regular file")
                members.append(member)
                if len(members) > MEMBERS_COUNT:
                    raise Refused(f"{path.name} has more than {MEMBERS_COUNT} members, no artifact has so many")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise Refused(f"{path.name} is truncated or no archive: {error}") from None
    names = (member.name[2:] if member.name.startswith("./") else member.name for member in members)
    _refuse_names(path, (name for name in names if name != "."))
    return members


def _refuse_names(path: Path, names: Iterable[str]) -> None:
    """Names that leave the folder, and those that are one file where case or the spelling of letters does not count."""
    seen: dict[str, str] = {}
    for name in names:
        if not is_inside(name):
            raise Refused(f"{path.name} holds {name[:200]!r}, which would be unpacked elsewhere")
        spelled = unicodedata.normalize("NFKC", name).casefold()
        if spelled in seen:
            raise Refused(f"{path.name} holds {seen[spelled][:200]!r} and {name[:200]!r}, one file to some readers")
        seen[spelled] = name
