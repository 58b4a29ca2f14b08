"""How a check ends when it does not accept, and the careful reading of small JSON files."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

_RECORD_BYTES = 64 << 20


class Refused(Exception):  # noqa: N818 - the word of judgement that a person reads
    """The bundle is not what it says, or does not do here what it must."""


class Unable(Exception):  # noqa: N818
    """This machine or this call cannot check it."""


def printable(text: str) -> str:
    """A line that a terminal shows as it is: whatever would move its cursor, colour it, end the line or turn the
    direction of writing is spelled out. Names in a bundle are what its maker chose.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def printable_lines(text: str) -> str:
    """The same of each line of a text of ours, which ends its lines on purpose."""
    return "\n".join(map(printable, text.split("\n")))


def read_regular(path: Path, name: str) -> bytes:
    """A small regular file of the bundle, whole; messages call it ``name``."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{name} is not a regular file")
        if status.st_size > _RECORD_BYTES:
            raise Refused(f"{name} has {status.st_size} bytes, more than any bundle's")
        return path.read_bytes()
    except FileNotFoundError:
        raise Refused(f"{name} is missing: {path.parent} is not a bundle") from None
    except OSError as error:
        raise Unable(f"{path} cannot be read: {error.strerror}") from None


def parse_json(data: bytes, name: str) -> Any:
    """JSON without doubled members and without NaN; messages call it ``name``."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a member is doubled")
        return members

    def never(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        return json.loads(data, object_pairs_hook=unique, parse_constant=never)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name} is not JSON: {str(error)[:200] or 'nested too deeply'}") from None
