"""Faults that a lower precision invites, edited into built ONNX files: each must fail, and the right file must not.

In half precision: a module left in float32, a value that saturates, a cast in the wrong place, a weight that is off by
more than its rounding. In int8: a wrong scale in one channel, a zero point off by one, ranges that saturate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Edit = Callable[[onnx.ModelProto], None]
Values = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind: what is edited, in an artifact of which backend, and the levels of which one must fail."""

    name: str
    backend: str
    edit: Edit
    levels: tuple[str, ...]


def _tensors(model: onnx.ModelProto, kind: int, least_dims: int = 0) -> list[onnx.TensorProto]:
    return [t for t in model.graph.initializer if t.data_type == kind and len(t.dims) >= least_dims]


def _store(tensor: onnx.TensorProto, values: NDArray[np.generic]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _replace(model: onnx.ModelProto, before: str, after: str, *but: onnx.NodeProto) -> None:
    for node in model.graph.node:
        if node not in but:
            node.input[:] = [after if name == before else name for name in node.input]


def _insert_after(model: onnx.ModelProto, value: str, nodes: list[onnx.NodeProto]) -> None:
    """Let whoever reads ``value`` read what the last of ``nodes`` makes of it."""
    _replace(model, value, nodes[-1].output[0])
    places = [index for index, node in enumerate(model.graph.node) if value in node.output]
    rest = list(model.graph.node)
    del model.graph.node[:]
    at = places[0] + 1 if places else 0
    model.graph.node.extend([*rest[:at], *nodes, *rest[at:]])


def _layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]


def left_in_float32(model: onnx.ModelProto) -> None:
    """The first layer computes in float32, between casts; its weights are exact."""
    layer = _layers(model)[0]
    for name in list(layer.input):
        tensor = next((t for t in model.graph.initializer if t.name == name), None)
        if tensor is not None:
            _store(tensor, numpy_helper.to_array(tensor).astype(np.float32))
    wide = f"{layer.input[0]}_wide"
    cast = helper.make_node("Cast", [layer.input[0]], [wide], to=TensorProto.FLOAT)
    layer.input[0] = wide
    nodes = [*model.graph.node]
    at = nodes.index(layer)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], cast, *nodes[at:]])
    narrow = helper.make_node("Cast", [layer.output[0]], [f"{layer.output[0]}_narrow"], to=TensorProto.FLOAT16)
    _insert_after(model, layer.output[0], [narrow])
    del model.graph.value_info[:]


def weight_off(model: onnx.ModelProto) -> None:
    """The largest weight of the last matrix, 1 % off."""
    tensor = _tensors(model, TensorProto.FLOAT16, 2)[-1]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[np.abs(values).argmax()] *= np.float16(1.01)
    _store(tensor, values)


def saturated(model: onnx.ModelProto) -> None:
    """What the first layer answers is clipped, as a value past the largest one is."""
    layer = _layers(model)[0]
    limit = numpy_helper.from_array(np.array(0.02, np.float16), "limit")
    model.graph.initializer.append(limit)
    clip = helper.make_node("Min", [layer.output[0], "limit"], [f"{layer.output[0]}_clipped"])
    _insert_after(model, layer.output[0], [clip])


def rounded_to_bfloat16(model: onnx.ModelProto) -> None:
    """The input is cast to bfloat16 on its way to float16."""
    _cast_after(model, model.graph.input[0].name, TensorProto.BFLOAT16, TensorProto.FLOAT)


def rounded_to_eights(model: onnx.ModelProto) -> None:
    """What the first layer answers is cast to eight bits and back."""
    _cast_after(model, _layers(model)[0].output[0], TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT16)


def _cast_after(model: onnx.ModelProto, value: str, narrower: int, back: int) -> None:
    narrow = helper.make_node("Cast", [value], [f"{value}_coarse"], to=narrower)
    _insert_after(model, value, [narrow, helper.make_node("Cast", [f"{value}_coarse"], [f"{value}_back"], to=back)])


def _dequantised(model: onnx.ModelProto, least_dims: int) -> list[onnx.NodeProto]:
    """The nodes that dequantise stored tensors of so many dimensions."""
    stored = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    return [node for node in nodes if stored.get(node.input[0], -1) >= least_dims]


def _tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    tensor: onnx.TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return tensor


def channel_scale(factor: float) -> Edit:
    """The scale of one channel of the last weight, times ``factor``."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = _tensor(model, _dequantised(model, 2)[-1].input[1])
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] *= np.float32(factor)
        _store(tensor, values)

    return edit


def bias_times(factor: int) -> Edit:
    """All integers of the last bias, times ``factor``."""

    def edit(model: onnx.ModelProto) -> None:
        biases = [node for node in _dequantised(model, 1) if node not in _dequantised(model, 2)]
        tensor = _tensor(model, biases[-1].input[0])
        _store(tensor, numpy_helper.to_array(tensor) * np.int32(factor))

    return edit


def bias_of_another(model: onnx.ModelProto) -> None:
    """One of the two longest biases is the other, scale and all."""
    biases = [node for node in _dequantised(model, 1) if node not in _dequantised(model, 2)]
    first, second = sorted(biases, key=lambda node: -_tensor(model, node.input[0]).dims[0])[:2]
    for source, into in zip(first.input, second.input, strict=True):
        _store(_tensor(model, into), numpy_helper.to_array(_tensor(model, source)))


def weight_zero_point(model: onnx.ModelProto) -> None:
    """The zero point of one channel of the last weight, off by one."""
    tensor = _tensor(model, _dequantised(model, 2)[-1].input[2])
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 1
    _store(tensor, values)


def value_zero_point(model: onnx.ModelProto) -> None:
    """A value between layers is dequantised with a zero point off by one."""
    made = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    node = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in made][-1]
    before = numpy_helper.to_array(_tensor(model, node.input[2]))
    other = before + np.array(1 if before < 127 else -1, before.dtype)
    model.graph.initializer.append(numpy_helper.from_array(other.astype(before.dtype), "other_zero_point"))
    node.input[2] = "other_zero_point"


def narrow_range(model: onnx.ModelProto) -> None:
    """The first value's range is a sixteenth of what it reaches, so that it saturates."""
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    tensor = _tensor(model, node.input[1])
    _store(tensor, numpy_helper.to_array(tensor) / np.float32(16))


HALF = (
    Fault(name="a module left in float32", backend="onnx-fp16", edit=left_in_float32, levels=("weights",)),
    Fault(name="a weight 1 % off", backend="onnx-fp16", edit=weight_off, levels=("weights",)),
    Fault(name="saturation", backend="onnx-fp16", edit=saturated, levels=("fidelity",)),
    Fault(name="the input cast to bfloat16", backend="onnx-fp16", edit=rounded_to_bfloat16, levels=("fidelity",)),
    Fault(name="a value cast to eight bits", backend="onnx-fp16", edit=rounded_to_eights, levels=("fidelity",)),
)
INT8 = (
    Fault(name="a channel's scale 10 % off", backend="onnx-int8", edit=channel_scale(1.1), levels=("fidelity",)),
    Fault(name="a channel's scale times 8", backend="onnx-int8", edit=channel_scale(8), levels=("fidelity",)),
    Fault(name="a bias of the wrong sign", backend="onnx-int8", edit=bias_times(-1), levels=("fidelity",)),
    Fault(name="a weight's zero point off by one", backend="onnx-int8", edit=weight_zero_point, levels=("fidelity",)),
    Fault(name="a value's zero point off by one", backend="onnx-int8", edit=value_zero_point, levels=("fidelity",)),
    Fault(name="a range that saturates", backend="onnx-int8", edit=narrow_range, levels=("fidelity",)),
)
