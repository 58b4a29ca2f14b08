"""Answers as the protocol has them: JSON, and binary data after it where a client asked for that."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from pipeline.serving.protocol.datatypes import DATATYPES, to_json
from pipeline.serving.protocol.refusal import Refusal
from pipeline.serving.protocol.requests import Asked

if TYPE_CHECKING:
    from export.tensor import TensorSpec

JSON, BINARY, HTML, TEXT = (
    b"application/json", b"application/octet-stream", b"text/html; charset=utf-8", b"text/plain; charset=utf-8",
)  # fmt: skip
_ENCODER = msgspec.json.Encoder()


class Response(NamedTuple):
    """What goes back to the client."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def as_json(value: Any, status: int = 200) -> Response:
    """Any plain value."""
    return Response(status, _ENCODER.encode(value))


def inference_response(
    model: str, version: str, asked: Asked, specs: Sequence[TensorSpec], outputs: Sequence[np.ndarray[Any, Any]]
) -> Response:
    """The answer to an inference request.

    Raises:
        Refusal: 422, a value that JSON has no number for.
    """
    tensors: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for index, is_binary in asked.outputs:
        array, spec = outputs[index], specs[index]
        tensor: dict[str, Any] = {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": array.shape}
        if is_binary:
            binary.append(_bytes(array))
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = to_json(array)
        tensors.append(tensor)
    fields: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": tensors}
    if asked.id:
        fields["id"] = asked.id
    head = _ENCODER.encode(fields)
    if b"null" in head:
        _refuse_nonfinite(asked, specs, outputs)
    if not binary:
        return Response(200, head)
    length = ((b"inference-header-content-length", str(len(head)).encode()),)
    return Response(200, b"".join((head, *binary)), BINARY, length)


def _refuse_nonfinite(asked: Asked, specs: Sequence[TensorSpec], outputs: Sequence[np.ndarray[Any, Any]]) -> None:
    for index, is_binary in asked.outputs:
        if not is_binary and not np.isfinite(outputs[index]).all():
            name = specs[index].name
            raise Refusal(
                422, "nonfinite", f"output {name!r} holds NaN or Inf, which JSON cannot carry: ask for binary data"
            )


def _bytes(array: np.ndarray[Any, Any]) -> bytes:
    """In C order, the lowest byte of each element first."""
    return (array if sys.byteorder == "little" else array.byteswap()).tobytes()
