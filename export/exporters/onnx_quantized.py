"""What an ONNX file quantised to int8 holds: its weights as they are dequantised, and pairs that disagree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from export.contents import Quantized


def read_quantized(graph: Any) -> Iterator[Quantized]:
    """Every stored tensor that a node dequantises, with its steps in the tensor's own layout."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            continue
        values = numpy_helper.to_array(stored[node.input[0]])
        scale, zero = _scale_and_zero(node, stored)
        if scale.ndim == 1 and values.ndim:
            axis = next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "axis"), 1)
            shape = [-1 if dim == axis % values.ndim else 1 for dim in range(values.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.ndim else zero
        steps = np.broadcast_to(scale, values.shape)
        yield Quantized(name=node.input[0], values=(values - zero) * steps, steps=steps)


def unequal_pairs(graph: Any) -> Iterator[str]:
    """Values that are dequantised by another scale or zero point than they were quantised by."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and (source := made.get(node.input[0])) is not None:
            pairs = zip(_scale_and_zero(source, stored), _scale_and_zero(node, stored), strict=True)
            if not all(np.array_equal(before, after) for before, after in pairs):
                yield str(source.input[0])


def _scale_and_zero(node: Any, stored: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """In float64, so that their differences are exact."""
    scale, zero = (
        numpy_helper.to_array(stored[name]).astype(np.float64) if name in stored else np.float64(0) + np.zeros(())
        for name in (node.input[1], node.input[2] if len(node.input) > 2 else "")
    )
    return scale, zero
