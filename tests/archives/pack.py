"""ZIP archives written member by member, as torch writes them or arranged otherwise on purpose."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

_ALIGNMENT_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class Part:
    """One member; what is None, or empty, is as torch writes it."""

    name: bytes
    """With the folder that all members are in."""
    data: bytes
    method: int = 0
    flags: int | None = None
    header_name: bytes | None = None
    """What the header before the member calls it; the directory calls it ``name``."""
    told_bytes: int | None = None
    """How long the directory says that it is."""
    told_offset: int | None = None
    """Where the directory says that its header lies."""
    comment: bytes = b""
    after: bytes = b""
    """What lies between it and the next."""


def parts_of(archive: bytes) -> list[Part]:
    """The members of an archive, in the order of its directory."""
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        return [
            Part(name=member.filename.encode(), data=members.read(member), method=member.compress_type)
            for member in members.infolist()
        ]


def pack(parts: Sequence[Part], *, before: bytes = b"", after: bytes = b"", comment: bytes = b"") -> bytes:
    """An archive of these members, in this order; ``before``, ``after`` and ``comment`` lie around it."""
    archive, directory, count = bytearray(before), bytearray(), len(parts)
    for part in parts:
        directory += _entry(part, len(archive))
        archive += _member(part, len(archive))
    offset = len(archive)
    ends = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0x31E, 45, 0, 0, count, count, len(directory), offset)
    ends += struct.pack("<4sLQL", b"PK\6\7", 0, offset + len(directory), 1)
    ends += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), offset, len(comment))
    return bytes(archive + directory + ends + comment + after)


def _begin(part: Part) -> tuple[int, ...]:
    """Version, flags, method, time and date."""
    flags = part.flags if part.flags is not None else 0x808 if part.data else 0x800
    return (20 if part.method else 0, flags, part.method, 0, 0)


def _packed(part: Part) -> bytes:
    if part.method == zipfile.ZIP_DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return packer.compress(part.data) + packer.flush()
    return part.data


def _member(part: Part, offset: int) -> bytes:
    """Header, filling, data, checksum, and what is hidden after it."""
    name, packed = part.header_name or part.name, _packed(part)
    filling_bytes = -(offset + 30 + len(name) + 4) % _ALIGNMENT_BYTES
    filling = struct.pack("<2sH", b"FB", filling_bytes) + b"Z" * filling_bytes
    header = struct.pack("<4s5H3L2H", b"PK\3\4", *_begin(part), 0, 0, 0, len(name), len(filling)) + name + filling
    lengths = (len(packed), len(part.data))
    checksum = struct.pack("<4s3L", b"PK\7\x08", zlib.crc32(part.data), *lengths) if part.data else b""
    return header + packed + checksum + part.after


def _entry(part: Part, offset: int) -> bytes:
    """What the directory says of it."""
    told = part.told_bytes
    lengths = (len(_packed(part)), len(part.data)) if told is None else (told, told)
    fields = (zlib.crc32(part.data), *lengths, len(part.name), 0, len(part.comment), 0, 0, 0)
    where = offset if part.told_offset is None else part.told_offset
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", 0, *_begin(part), *fields, where) + part.name + part.comment
