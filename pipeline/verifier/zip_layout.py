"""The layout that torch's writer gives a ZIP archive: every byte has one place in it, and any other layout is refused.

Readers disagree about archives that somebody arranged: which of two members of one name counts, whether case does,
whether a member's name and size are what stands before it or what the directory says, what the bytes outside of both
are. In this layout they cannot: members, each between a header and its checksum, then the directory, then the three
records of its end. All of these are built anew from what they say, and compared.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple

from pipeline.verifier.outcome import Refused

MEMBERS_COUNT = 100_000
_HEADER, _ENTRY = Struct("<4s5H3L2H"), Struct("<4s6H3L5H2L")
_LONG_END, _LOCATOR, _END = Struct("<4sQ2H2L4Q"), Struct("<4sLQL"), Struct("<4s4H2LH")
_ENDS_BYTES = _LONG_END.size + _LOCATOR.size + _END.size
_MOST_SHORT, _MOST = 0xFFFF, 0xFFFFFFFF
"""What stands in a field of two or four bytes for a value that needs more and follows in a longer one."""
_STORED, _DEFLATED = 0, 8
_IN_UTF_8, _CHECKSUM_FOLLOWS = 1 << 11, 1 << 3
_PADDING = re.compile(rb"(\x01\0\x08\0.{8}|\x01\0\x10\0.{16}|\x01\0\x18\0.{24})?FB..Z*", re.DOTALL)
"""Between header and member: longer values, then torch's filling up to a multiple of 64 bytes."""


class Member(NamedTuple):
    """One file of an archive: ``packed_bytes`` of it lie at ``offset``, after its header at ``header_offset``."""

    name: str
    method: int
    checksum: int
    packed_bytes: int
    size_bytes: int
    header_offset: int
    offset: int

    @property
    def is_stored(self) -> bool:
        """Whether it lies there as it is, not compressed."""
        return self.method == _STORED

    @property
    def is_long(self) -> bool:
        """Whether its sizes need more than four bytes."""
        return max(self.size_bytes, self.packed_bytes) >= _MOST


class _LayoutError(ValueError):
    """Something is not as torch writes it."""


def zip_members(path: Path) -> list[Member]:
    """The members of an archive of torch's, in the order of the file; none is unpacked.

    Raises:
        Refused: another layout.
    """
    try:
        with open(path, "rb") as file:
            return _members(file)
    except (_LayoutError, UnicodeDecodeError) as error:
        raise Refused(f"{path.name} is truncated or no archive as torch writes it: {error}") from None


def _members(file: BinaryIO) -> list[Member]:
    ends_offset = file.seek(0, 2) - _ENDS_BYTES
    ends = _read(file, max(ends_offset, 0), _ENDS_BYTES)
    count, directory_bytes, directory_offset = _LONG_END.unpack_from(ends)[-3:]
    if directory_offset + directory_bytes != ends_offset or ends != _ends(count, directory_bytes, directory_offset):
        raise _LayoutError("it does not end with its directory")
    if count > MEMBERS_COUNT:
        raise _LayoutError(f"it has {count} members, no artifact has so many")
    directory = _read(file, directory_offset, directory_bytes)
    members, entry_offset, member_offset = [], 0, 0
    for _ in range(count):
        member, entry = _member(file, directory, entry_offset)
        if member.header_offset != member_offset:
            raise _LayoutError(f"before {member.name[:200]!r} lies what is no member")
        entry_offset += len(entry)
        member_offset = member.offset + member.packed_bytes + len(_checksum(member))
        members.append(member)
    if (entry_offset, member_offset) != (directory_bytes, directory_offset):
        raise _LayoutError("between its members and its end lies more than their directory")
    return members


def _member(file: BinaryIO, directory: bytes, start: int) -> tuple[Member, bytes]:
    """The member whose entry begins there in the directory, and that entry."""
    if len(directory) < start + _ENTRY.size:
        raise _LayoutError("its directory is cut off")
    fields = _ENTRY.unpack_from(directory, start)
    name_bytes, longer_bytes = fields[10:12]
    entry = directory[start : start + _ENTRY.size + name_bytes + longer_bytes]
    name, longer = entry[_ENTRY.size :][:name_bytes], iter(entry[_ENTRY.size + name_bytes :][4:])
    size_bytes, packed_bytes, header_offset = (
        int.from_bytes(islice(longer, 8), "little") if value == _MOST else value
        for value in (fields[9], fields[8], fields[16])
    )
    header = _read(file, header_offset, _HEADER.size + name_bytes)
    padding = _read(file, header_offset + len(header), _HEADER.unpack_from(header)[-1])
    offset = header_offset + len(header) + len(padding)
    member = Member(name.decode(), fields[4], fields[7], packed_bytes, size_bytes, header_offset, offset)
    if entry != _entry(member):
        raise _LayoutError(f"the entry of {member.name[:200]!r} in its directory is another")
    if header != _header(member, len(padding)) or not _PADDING.fullmatch(padding):
        raise _LayoutError(f"the header of {member.name[:200]!r} is another")
    if _read(file, offset + packed_bytes, len(_checksum(member))) != _checksum(member):
        raise _LayoutError(f"the checksum after {member.name[:200]!r} is another")
    return member, entry


def _common(member: Member) -> tuple[int, ...]:
    """What header and entry begin with: version, flags, method, time and date."""
    if member.method not in (_STORED, _DEFLATED) or (member.is_stored and member.size_bytes != member.packed_bytes):
        raise _LayoutError(f"{member.name[:200]!r} is packed in another way")
    flags = _IN_UTF_8 | (_CHECKSUM_FOLLOWS if member.size_bytes else 0)
    return (20 if member.method == _DEFLATED else 0, flags, member.method, 0, 0)


def _entry(member: Member) -> bytes:
    """Its part of the directory."""
    sizes = (member.size_bytes, member.packed_bytes) if member.is_long else ()
    longer = [*sizes, member.header_offset] if member.header_offset >= _MOST else [*sizes]
    name = member.name.encode()
    extra = Struct(f"<2H{len(longer)}Q").pack(1, 8 * len(longer), *longer) if longer else b""
    short = (min(value, _MOST) for value in (member.packed_bytes, member.size_bytes))
    lengths = (len(name), len(extra), 0, 0, 0)
    fields = (0, *_common(member), member.checksum, *short, *lengths, 0, min(member.header_offset, _MOST))
    return _ENTRY.pack(b"PK\1\2", *fields) + name + extra


def _header(member: Member, padding_bytes: int) -> bytes:
    """What stands before it; its checksum and sizes stand after it."""
    name = member.name.encode()
    return _HEADER.pack(b"PK\3\4", *_common(member), 0, 0, 0, len(name), padding_bytes) + name


def _checksum(member: Member) -> bytes:
    """What stands after it."""
    if not member.size_bytes:
        return b""
    form = Struct("<4sL2Q") if member.is_long or member.header_offset >= _MOST else Struct("<4s3L")
    return form.pack(b"PK\7\x08", member.checksum, member.packed_bytes, member.size_bytes)


def _ends(count: int, directory_bytes: int, directory_offset: int) -> bytes:
    """What the file ends with, for a directory of so many members, so long, and there."""
    short = min(count, _MOST_SHORT)
    return (
        _LONG_END.pack(b"PK\6\6", 44, 0x31E, 45, 0, 0, count, count, directory_bytes, directory_offset)
        + _LOCATOR.pack(b"PK\6\7", 0, directory_offset + directory_bytes, 1)
        + _END.pack(b"PK\5\6", 0, 0, short, short, min(directory_bytes, _MOST), min(directory_offset, _MOST), 0)
    )


def _read(file: BinaryIO, offset: int, length_bytes: int) -> bytes:
    if offset + length_bytes > file.seek(0, 2):
        raise _LayoutError("it is cut off")
    file.seek(offset)
    return file.read(length_bytes)
