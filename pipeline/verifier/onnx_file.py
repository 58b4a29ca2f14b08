"""What an ONNX file really holds, read from its wire format before any runtime sees it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.verifier.files import is_inside
from pipeline.verifier.outcome import Refused

_NODES_COUNT, _GRAPH_DEPTH = 250_000, 64
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
"""The messages of onnx.proto that can hold a tensor, by field number."""


def scan_onnx(path: Path, listed: Mapping[str, int], prefix: str) -> int:
    """How many nodes an ONNX file has, read from its wire format alone: no runtime has seen the file yet.

    ``listed`` are the sizes in bytes of the bundle's files by path, ``prefix`` the folder of this one.

    Raises:
        Refused: not an ONNX file, nested or large beyond any model, or with weights outside of the bundle.
    """
    nodes_count = 0
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise Refused(f"{path.name} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            pending = [("model", 0, len(data), 0)]
            while pending:
                kind, start, end, depth = pending.pop()
                if depth > _GRAPH_DEPTH:
                    raise Refused(f"{path.name}: graphs are nested more than {_GRAPH_DEPTH} deep")
                external = []
                for number, begin, stop in _fields(data, start, end, path.name):
                    part = _PARTS[kind].get(number)
                    if part == "external":
                        external.append((begin, stop))
                    elif part is not None:
                        pending.append((part, begin, stop, depth + 1))
                    nodes_count += part == "node"
                    if nodes_count > _NODES_COUNT:
                        raise Refused(f"{path.name} has more than {_NODES_COUNT} nodes")
                if external:
                    _check_external(data, external, listed, prefix, path.name)
    if not nodes_count:
        raise Refused(f"{path.name} holds no graph")
    return nodes_count


def _check_external(
    data: mmap.mmap, entries: Sequence[tuple[int, int]], listed: Mapping[str, int], prefix: str, name: str
) -> None:
    """A tensor's weights elsewhere: in a file of the bundle beside this one, and within its size."""
    entry = {}
    for begin, stop in entries:
        texts = {number: data[first:last] for number, first, last in _fields(data, begin, stop, name)}
        entry[texts.get(1, b"")] = texts.get(2, b"").decode("utf-8", "replace")
    place = entry.get(b"location", "")
    if not is_inside(place) or prefix + place not in listed:
        raise Refused(f"{name} wants weights from {place[:200]!r}, which is not a file of the bundle")
    try:
        offset, length = int(entry.get(b"offset", "0")), int(entry.get(b"length", "0"))
    except ValueError:
        raise Refused(f"{name}: the place of external weights is not a number") from None
    if min(offset, length) < 0 or offset + length > listed[prefix + place]:
        raise Refused(f"{name} wants {length} bytes from {offset} of {place}, which has {listed[prefix + place]}")


def _fields(data: mmap.mmap, start: int, end: int, name: str) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of every length-delimited field of a protobuf message; others are passed over."""
    place = start
    while place < end:
        key, place = _varint(data, place, end, name)
        wire = key & 7
        if wire == 2:
            length, place = _varint(data, place, end, name)
            if length > end - place:
                raise Refused(f"{name} is truncated or not an ONNX file")
            yield key >> 3, place, place + length
            place += length
        elif wire == 0:
            _, place = _varint(data, place, end, name)
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
        else:
            raise Refused(f"{name} is not an ONNX file")
    if place != end:
        raise Refused(f"{name} is truncated or not an ONNX file")


def _varint(data: mmap.mmap, place: int, end: int, name: str) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise Refused(f"{name} is truncated or not an ONNX file")
