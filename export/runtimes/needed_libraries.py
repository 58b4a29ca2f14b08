"""What a shared library is linked against, read from the file: loading it would run its initialisers."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_LITTLE_64 = b"\x7fELF\x02\x01"
_LOAD, _DYNAMIC = 1, 2
_END, _NEEDED, _STRINGS = 0, 1, 5
_HEADER = struct.Struct("<32xQ14xHH")
"""What the header of the file says of its segments: where they are listed, the size of an entry, their number."""
_SEGMENT = struct.Struct("<I4xQQ8xQ")
"""Kind, place in the file, address, size in the file."""
_ENTRY = struct.Struct("<qQ")


def needed_libraries(library: Path) -> list[str]:
    """Names of the libraries that the loader loads with it, in its order.

    Raises:
        ValueError: it is no shared library of a 64-bit little-endian machine.
    """
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[: len(_LITTLE_64)] != _LITTLE_64:
            raise ValueError(f"{library}: not a shared library")
        try:
            return _names(data)
        except (struct.error, StopIteration) as error:
            raise ValueError(f"{library}: a damaged shared library") from error


def _names(data: mmap.mmap) -> list[str]:
    begin, size, count = _HEADER.unpack_from(data)
    segments = [_SEGMENT.unpack_from(data, begin + size * index) for index in range(count)]
    entries: list[tuple[int, int]] = []
    for kind, offset, _, length in segments:
        if kind == _DYNAMIC:
            entries += _ENTRY.iter_unpack(data[offset : offset + length - length % _ENTRY.size])
    tags = [tag for tag, _ in entries]
    entries = entries[: tags.index(_END) if _END in tags else None]
    names = [value for tag, value in entries if tag == _NEEDED]
    if not names:
        return []
    address = next(value for tag, value in entries if tag == _STRINGS)
    strings = next(
        offset + address - start
        for kind, offset, start, length in segments
        if kind == _LOAD and start <= address < start + length
    )
    return [data[strings + name : data.find(b"\0", strings + name)].decode() for name in names]
