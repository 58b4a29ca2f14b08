"""An inference request: the JSON part, and the binary data after it, as named arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from pipeline.serving.protocol.datatypes import BINARY_ONLY, DATATYPES, from_binary, from_json
from pipeline.serving.protocol.refusal import invalid

if TYPE_CHECKING:
    from export.signature import Signature

_UNSUPPORTED = ("sequence_id", "shared_memory_region", "classification")
"""Parameters of Triton's extensions that would change the answer: refused, not ignored."""
_OTHER_MARKS = 10_000
"""Commas and brackets beside those of the tensors: names, parameters, requested outputs."""


class InputTensor(msgspec.Struct):
    """``$request_input`` of the protocol."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()
    """Empty where it is sent as binary data."""


class RequestedOutput(msgspec.Struct):
    """``$request_output`` of the protocol."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """``$inference_request`` of the protocol."""

    inputs: list[InputTensor]
    id: str = ""
    outputs: list[RequestedOutput] = []
    parameters: dict[str, Any] = {}


class Contract(Protocol):
    """What a request is held to."""

    @property
    def signature(self) -> Signature:
        """The model's, its ranges those that were tested."""
        ...

    @property
    def most_marks(self) -> int:
        """The most commas and brackets that the JSON of a call's tensors holds."""
        ...

    def check_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """The rows of a call with inputs of these shapes, in the signature's order.

        Raises:
            Refusal: 400, a shape that the artifact was not tested with.
        """
        ...

    def check_values(self, arrays: list[np.ndarray[Any, Any]]) -> None:
        """Hold integers to what they point into.

        Raises:
            Refusal: 400, one points outside.
        """
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants to know."""

    arrays: list[np.ndarray[Any, Any]]
    """In the signature's order."""
    rows: int
    outputs: tuple[tuple[int, bool], ...]
    """Those that are asked for: their place in the signature, and whether as binary data."""
    id: str
    timeout_s: float | None
    """How long the client will wait, if it says so."""


_DECODER = msgspec.json.Decoder(InferRequest)


def read_request(body: bytes, json_length: bytes | None, contract: Contract) -> Asked:
    """Everything checked: names, datatypes, shapes, numbers of elements and bytes, ranges, requested outputs.

    Sizes come first: nothing is made of JSON that holds more than the model's largest call, nor of data that holds more
    than the shape beside it says.

    ``json_length`` is the header ``Inference-Header-Content-Length``: where the JSON ends and binary data begins.

    Raises:
        Refusal: 400, naming what is wrong.
    """
    view = memoryview(body)
    end = len(body) if json_length is None else _json_end(json_length, len(body))
    _check_marks(body if end == len(body) else bytes(view[:end]), contract.most_marks)
    try:
        request = _DECODER.decode(view[:end])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid(f"the request is not an inference request: {reason}") from None
    _refuse_unsupported(request.parameters, "the request")
    tensors = _tensors(request, contract.signature)
    rows = contract.check_shapes(tuple([tuple(tensor.shape) for tensor in tensors.values()]))
    arrays = _arrays(request, tensors, view[end:], contract.signature)
    contract.check_values(arrays)
    return Asked(arrays, rows, _outputs(request, contract.signature), request.id, _timeout(request))


def _check_marks(text: bytes, most_marks: int) -> None:
    """A value costs many times the memory of its text, which is why values are counted before there are any."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") > most_marks + _OTHER_MARKS:
        raise invalid("the request holds more values than the model's largest call has")


def _json_end(json_length: bytes, body_length: int) -> int:
    if not json_length.isdigit() or len(json_length) > 18:
        raise invalid("Inference-Header-Content-Length must be a number of bytes")
    end = int(json_length)
    if end > body_length:
        raise invalid(f"Inference-Header-Content-Length is {end}, the body has {body_length} bytes")
    return end


def _tensors(request: InferRequest, signature: Signature) -> dict[str, InputTensor]:
    """The inputs by name in the signature's order, each of its datatype and rank."""
    specs = {spec.name: spec for spec in signature.inputs}
    tensors: dict[str, InputTensor] = {}
    for tensor in request.inputs:
        name = tensor.name
        spec = specs.get(name)
        if spec is None:
            raise invalid(f"there is no input {name[:100]!r}: the inputs are {', '.join(specs)}")
        if name in tensors:
            raise invalid(f"input {name!r} is given twice")
        datatype = DATATYPES[spec.dtype]
        if tensor.datatype != datatype:
            raise invalid(f"input {name!r} must have the datatype {datatype}, got {tensor.datatype[:20]!r}")
        if len(tensor.shape) != len(spec.shape):
            raise invalid(f"input {name!r} must have the shape {list(spec.shape)}, got {tensor.shape[:20]}")
        tensors[name] = tensor
    if missing := [name for name in specs if name not in tensors]:
        raise invalid(f"input {missing[0]!r} is missing: the inputs are {', '.join(specs)}")
    return {name: tensors[name] for name in specs}


def _arrays(
    request: InferRequest, tensors: dict[str, InputTensor], binary: memoryview, signature: Signature
) -> list[np.ndarray[Any, Any]]:
    """The inputs in the signature's order, each with its number of bytes or elements."""
    dtypes = {spec.name: spec.dtype for spec in signature.inputs}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in request.inputs:  # binary data lies in the request's order
        name, dtype, shape = tensor.name, dtypes[tensor.name], tuple(tensor.shape)
        _refuse_unsupported(tensor.parameters, f"input {name!r}")
        if "binary_data_size" in tensor.parameters:
            size = _binary_size(tensor, len(binary))
            arrays[name] = from_binary(binary[:size], dtype, shape, name)
            binary = binary[size:]
        elif (datatype := DATATYPES[dtype]) in BINARY_ONLY:
            raise invalid(f"input {name!r}: {datatype} is sent as binary data (binary_data_size), JSON has none")
        else:
            arrays[name] = from_json(bytes(tensor.data), dtype, shape, name)
    if len(binary):
        raise invalid(f"{len(binary)} bytes follow that no input announces by binary_data_size")
    return [arrays[name] for name in tensors]


def _binary_size(tensor: InputTensor, left: int) -> int:
    """How many of the bytes that are left are this tensor's."""
    size = tensor.parameters["binary_data_size"]
    if memoryview(tensor.data):
        raise invalid(f"input {tensor.name!r} has both data and binary_data_size")
    if type(size) is not int or not 0 <= size <= left:
        raise invalid(
            f"input {tensor.name!r}: binary_data_size must be a number of bytes that follow, "
            f"got {str(size)[:20]} of {left}"
        )
    return size


def _outputs(request: InferRequest, signature: Signature) -> tuple[tuple[int, bool], ...]:
    """What is asked for; all outputs, in their order, where nothing is said."""
    names = signature.output_names
    binary = _flag(request.parameters, "binary_data_output", "the request")
    if request.outputs:
        asked = []
        for output in request.outputs:
            if output.name not in names:
                raise invalid(f"there is no output {output.name[:100]!r}: the outputs are {', '.join(names)}")
            _refuse_unsupported(output.parameters, f"output {output.name!r}")
            is_binary = _flag(output.parameters, "binary_data", f"output {output.name!r}", default=binary)
            asked.append((names.index(output.name), is_binary))
        if len({index for index, _ in asked}) != len(asked):
            raise invalid("an output is asked for twice")
    else:
        asked = [(index, binary) for index in range(len(names))]
    for index, is_binary in asked:
        if not is_binary and (datatype := DATATYPES[signature.outputs[index].dtype]) in BINARY_ONLY:
            raise invalid(f"output {names[index]!r}: {datatype} is sent as binary data: ask for it (binary_data)")
    return tuple(asked)


def _timeout(request: InferRequest) -> float | None:
    """``timeout`` is in microseconds, as Triton's clients send it."""
    timeout = request.parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is str and timeout.isdigit() and len(timeout) < 18:  # as older clients send it
        timeout = int(timeout)
    if type(timeout) is not int or timeout <= 0 or not math.isfinite(timeout):
        raise invalid(f"the parameter timeout must be microseconds above 0, got {str(timeout)[:20]}")
    return timeout / 1e6


def _flag(parameters: dict[str, Any], name: str, where: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise invalid(f"{where}: the parameter {name} must be true or false")
    return value


def _refuse_unsupported(parameters: dict[str, Any], where: str) -> None:
    for name in _UNSUPPORTED if parameters else ():
        if name in parameters:
            raise invalid(f"{where}: the parameter {name} is not supported here")
