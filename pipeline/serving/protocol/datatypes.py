"""The protocol's datatypes and NumPy's, and JSON numbers as tensors: exact, or refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from export.arrays import is_floating, numpy_dtype
from export.tensor import DTYPES
from pipeline.serving.protocol.refusal import invalid

DATATYPES = {dtype: dtype.upper().replace("BFLOAT", "BF").replace("FLOAT", "FP") for dtype in DTYPES}
"""By a signature's dtype the protocol's datatype. No tensor of a model is BYTES."""
BINARY_ONLY = frozenset({"FP16", "BF16"})
"""Datatypes that JSON does not carry: the protocol knows them as binary data alone."""
_LISTS = {kind: msgspec.json.Decoder(list[kind]) for kind in (float, int, bool)}  # type: ignore[valid-type]
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


def from_json(data: bytes | memoryview, dtype: str, shape: tuple[int, ...], name: str) -> np.ndarray[Any, Any]:
    """The tensor in the JSON array ``data``: flat, or nested as ``shape`` is.

    Raises:
        Refusal: 400, another number of elements or nesting, another kind of value, a number out of range.
    """
    kind = numpy_dtype(dtype)
    if not len(data):
        raise invalid(f"input {name!r} has neither data nor the parameter binary_data_size")
    element = bool if dtype == "bool" else float if is_floating(kind) else int
    try:
        if _is_nested(data):
            values = msgspec.convert(_flat(_ANY.decode(data), shape, name), list[element])  # type: ignore[valid-type]
        else:
            values = _LISTS[element].decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise invalid(f"input {name!r}: data: {_reason(error)}") from None
    if len(values) != math.prod(shape):
        raise invalid(f"input {name!r} must have {math.prod(shape)} elements for {list(shape)}, got {len(values)}")
    return _array(values, kind, name).reshape(shape)


def to_json(array: np.ndarray[Any, Any], name: str) -> list[Any]:
    """The elements, flat: a float as the shortest decimal that is it exactly.

    Raises:
        Refusal: 422, a value that JSON has no number for.
    """
    if is_floating(array.dtype) and not np.isfinite(array).all():
        message = f"output {name!r} holds NaN or Inf, which JSON cannot carry: ask for it as binary data"
        error = invalid(message)
        error.status = 422
        raise error
    values: list[Any] = array.ravel().tolist()
    return values


def _array(values: Sequence[Any], kind: np.dtype[Any], name: str) -> np.ndarray[Any, Any]:
    if is_floating(kind):
        with np.errstate(over="ignore"):
            array = np.array(values, np.float64).astype(kind)
        if not np.isfinite(array).all():
            worst = values[int(np.flatnonzero(~np.isfinite(array))[0])]
            raise invalid(f"input {name!r}: {worst!r} is out of the range of {DATATYPES[kind.name]}")
        return array
    if kind.kind != "b" and values:
        bounds = np.iinfo(kind)
        for value in (min(values), max(values)):
            if not bounds.min <= value <= bounds.max:
                raise invalid(f"input {name!r}: {value} is out of the range of {DATATYPES[kind.name]}")
    return np.array(values, kind)


def _is_nested(data: bytes | memoryview) -> bool:
    """Whether the first thing in an array is an array."""
    return bytes(data[:64]).lstrip()[1:].lstrip().startswith(b"[")


def _flat(values: Any, shape: tuple[int, ...], name: str) -> list[Any]:
    """Nested lists as one, each level held to its size."""
    level: list[Any] = [values]
    for axis, size in enumerate(shape):
        if not all(isinstance(inner, list) and len(inner) == size for inner in level):
            raise invalid(f"input {name!r}: nested data must have {size} elements in dimension {axis} everywhere")
        level = [*itertools.chain.from_iterable(level)]
    return level


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
