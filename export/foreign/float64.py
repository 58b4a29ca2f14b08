"""An ONNX graph with every float in double precision: what the model computes when it does not round on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

_FLOAT, _FLOAT16, _DOUBLE, _BFLOAT16 = 1, 10, 11, 16
_NARROW = (_FLOAT, _FLOAT16, _BFLOAT16)
_SINGLE_INPUTS = {"Resize": (2,), "Upsample": (1,)}
"""Inputs that ONNX allows in single precision alone: factors by which sizes are scaled."""
_NAMES_A_TYPE = ("to", "dtype", "output_dtype")


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights, constants, casts, inputs and outputs are double where they were floats."""
    import onnx

    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _graph(wide.graph)
    for function in wide.functions:
        _nodes(function.node)
        del function.value_info[:]
    return wide


def _graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        if kind.elem_type in _NARROW:
            kind.elem_type = _DOUBLE
    for tensor in graph.initializer:
        _tensor(tensor)
    _nodes(graph.node)
    nodes = [wide for node in graph.node for wide in (*_narrowed(node), node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    """Constants, casts and types of results, in the graphs within nodes too."""
    import onnx

    for node in nodes:
        if node.op_type == "ConstantOfShape" and not node.attribute:  # float zeros, unless it says otherwise
            zero = onnx.numpy_helper.from_array(np.zeros(1))
            node.attribute.append(onnx.helper.make_attribute("value", zero))
        for attribute in node.attribute:
            if attribute.name in _NAMES_A_TYPE and attribute.i in _NARROW:
                attribute.i = _DOUBLE
            if attribute.HasField("t"):
                _tensor(attribute.t)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _graph(graph)
        if node.op_type == "Constant":
            _constant(node)


def _constant(node: onnx.NodeProto) -> None:
    """A constant that is written as floats becomes a tensor of doubles."""
    import onnx

    stated = node.attribute[0]
    if stated.name not in ("value_float", "value_floats"):
        return
    values = np.array(stated.f if stated.name == "value_float" else stated.floats, dtype=np.float64)
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(values)))


def _tensor(tensor: onnx.TensorProto) -> None:
    import onnx

    if tensor.data_type in _NARROW:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _narrowed(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Casts before a node, for those of its inputs that ONNX wants in single precision."""
    import onnx

    for index in _SINGLE_INPUTS.get(node.op_type, ()):
        if index < len(node.input) and node.input[index]:
            single = f"{node.input[index]}_single_{index}_{node.output[0]}"
            yield onnx.helper.make_node("Cast", [node.input[index]], [single], to=_FLOAT)
            node.input[index] = single
