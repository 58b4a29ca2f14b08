"""The protocol's datatypes and NumPy's, and JSON numbers as tensors: exact, or refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np

from export.arrays import numpy_dtype
from export.tensor import DTYPES
from pipeline.serving.protocol.refusal import invalid

DATATYPES = {dtype: dtype.upper().replace("BFLOAT", "BF").replace("FLOAT", "FP") for dtype in DTYPES}
"""By a signature's dtype the protocol's datatype. No tensor of a model is BYTES."""
BINARY_ONLY = frozenset({"FP16", "BF16"})
"""Datatypes that JSON does not carry: the protocol knows them as binary data alone."""
_ANY = msgspec.json.Decoder()


def from_binary(data: memoryview, dtype: str, shape: tuple[int, ...], name: str) -> np.ndarray[Any, Any]:
    """The tensor in ``data``, without a copy where its place in memory allows; ``shape`` has been held to its size.

    Raises:
        Refusal: 400, another number of bytes, or a BOOL that is neither 0 nor 1.
    """
    kind = numpy_dtype(dtype)
    needed = math.prod(shape) * kind.itemsize
    if len(data) != needed:
        raise invalid(f"input {name!r} must have {needed} bytes for the shape {list(shape)}, got {len(data)}")
    array = np.frombuffer(data, np.uint8 if dtype == "bool" else kind)
    if dtype == "bool":
        if array.size and array.max() > 1:
            raise invalid(f"input {name!r}: a BOOL must be 0 or 1 in binary data, got {array.max()}")
        array = array.view(np.bool_)
    elif not array.flags.aligned:  # whatever the length of the JSON before it; runtimes read whole words
        array = array.copy()
    return array.reshape(shape)


def from_json(data: bytes, dtype: str, shape: tuple[int, ...], name: str) -> np.ndarray[Any, Any]:
    """The tensor in the JSON array ``data``: flat, or nested as ``shape`` is, which has been held to the signature.

    Raises:
        Refusal: 400, another number of elements or nesting, another kind of value, a number out of range.
    """
    if not len(data):
        raise invalid(f"input {name!r} has neither data nor the parameter binary_data_size")
    _check_marks(data, shape, name)
    numbers = _numbers(dtype)
    try:
        if _is_nested(data):
            values: list[Any] = msgspec.convert(_flat(_ANY.decode(data), shape, name), numbers.list_type)
        else:
            values = numbers.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise invalid(f"input {name!r}: data: {_reason(error)}") from None
    if len(values) != math.prod(shape):
        raise invalid(f"input {name!r} must have {math.prod(shape)} elements for {list(shape)}, got {len(values)}")
    if numbers.bounds is not None and values:
        low, high = numbers.bounds
        for value in (min(values), max(values)):
            if not low <= value <= high:
                raise invalid(f"input {name!r}: {value!r} is out of the range of {DATATYPES[dtype]}")
    return np.array(values, numbers.kind).reshape(shape)


def to_json(array: np.ndarray[Any, Any]) -> list[Any]:
    """The elements, flat: a float as the shortest decimal that is it exactly; NaN and Inf come out as null."""
    values: list[Any] = array.ravel().tolist()
    return values


def _check_marks(data: bytes, shape: tuple[int, ...], name: str) -> None:
    """As many commas and brackets as the shape has elements and rows, at the most: before any becomes an object."""
    most = math.prod([max(size, 1) for size in shape])
    if (count := data.count(b",") + 1) > most:
        raise invalid(f"input {name!r} must have {math.prod(shape)} elements for {list(shape)}, got {count}")
    if data.count(b"[") + data.count(b"{") > 1 + len(shape) * most:
        raise invalid(f"input {name!r}: data is nested deeper than {list(shape)}")


class _Numbers(NamedTuple):
    """How JSON holds the elements of a dtype."""

    kind: np.dtype[Any]
    list_type: Any
    decode: Callable[[bytes], list[Any]]
    bounds: tuple[float, float] | None
    """The least and the greatest number that is one of the dtype; None where JSON's own numbers are."""


@cache
def _numbers(dtype: str) -> _Numbers:
    kind = numpy_dtype(dtype)
    if dtype == "bool":
        return _Numbers(kind, list[bool], msgspec.json.Decoder(list[bool]).decode, None)
    if kind.kind == "f":
        limits = np.finfo(kind)
        # What lies within half a step of the greatest is rounded to it; FP64 is what JSON's numbers are read as.
        most = math.nextafter(float(limits.max) * (1 + float(limits.epsneg) / 2), 0) if dtype != "float64" else None
        bounds = None if most is None else (-most, most)
        return _Numbers(kind, list[float], msgspec.json.Decoder(list[float]).decode, bounds)
    whole = np.iinfo(kind)
    return _Numbers(kind, list[int], msgspec.json.Decoder(list[int]).decode, (int(whole.min), int(whole.max)))


def _is_nested(data: bytes) -> bool:
    """Whether the first thing in an array is an array."""
    return data[:64].lstrip()[1:].lstrip().startswith(b"[")


def _flat(values: Any, shape: tuple[int, ...], name: str) -> list[Any]:
    """Nested lists as a flat list, each level held to its size."""
    level: list[Any] = [values]
    for axis, size in enumerate(shape):
        if not all(isinstance(inner, list) and len(inner) == size for inner in level):
            raise invalid(f"input {name!r}: nested data must have {size} elements in dimension {axis} everywhere")
        level = [*itertools.chain.from_iterable(level)]
    return level


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
