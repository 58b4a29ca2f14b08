"""What an ONNX file quantised to int8 holds: its weights as they are dequantised, and pairs that disagree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from export.contents import Quantized

Array = np.ndarray[Any, Any]
_DEFAULT_AXIS = 1


def read_quantized(graph: Any) -> Iterator[Quantized]:
    """Every stored tensor that a node dequantises, with its steps in the tensor's own layout.

    Per tensor, per channel, or in blocks along one axis. Steps are NaN where the file does not say them (scales that
    another node computes, or of a shape that ONNX does not know).
    """
    stored = _stored(graph)
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            continue
        integers = numpy_helper.to_array(stored[node.input[0]])
        scale, zero = (_spread(given, integers.shape, node) for given in _scale_and_zero(node, stored))
        yield Quantized(name=node.input[0], values=(integers.astype(np.float64) - zero) * scale, steps=scale)


def unequal_pairs(graph: Any) -> Iterator[str]:
    """Values that are dequantised by another scale or zero point than they were quantised by."""
    stored = _stored(graph)
    made = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and (source := made.get(node.input[0])) is not None:
            pairs = zip(_scale_and_zero(source, stored), _scale_and_zero(node, stored), strict=True)
            if any(_differ(before, after) for before, after in pairs):
                yield str(source.input[0])


def _stored(graph: Any) -> dict[str, Any]:
    """What the graph itself holds, by name: initializers, and the values of Constant nodes."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            value = helper.get_attribute_value(attribute)
            if attribute.name in {"value_float", "value_floats"}:
                value = numpy_helper.from_array(np.array(value, np.float32))
            if attribute.name.startswith("value") and hasattr(value, "data_type"):
                tensors[node.output[0]] = value
    return tensors


def _scale_and_zero(node: Any, stored: dict[str, Any]) -> tuple[Array | None, Array | None]:
    """In float64, so that differences are exact; None for what is computed. Where no zero point stands it is 0."""
    scale, zero = node.input[1], node.input[2] if len(node.input) > 2 else ""
    return _values(stored.get(scale)), _values(stored.get(zero)) if zero else np.zeros(())


def _values(tensor: Any) -> Array | None:
    return None if tensor is None else numpy_helper.to_array(tensor).astype(np.float64)


def _spread(given: Array | None, shape: tuple[int, ...], node: Any) -> Array:
    """A scale or zero point at every element of a tensor; NaN where the file does not say it."""
    settings = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    axis, block = settings.get("axis", _DEFAULT_AXIS), settings.get("block_size", 0)
    if given is None:
        given = np.array(np.nan)
    elif block and given.ndim == len(shape):
        given = given.repeat(block, axis)[tuple(map(slice, shape))]
    elif given.size == 1:
        given = given.reshape(())
    elif given.ndim == 1 and shape:
        given = given.reshape([-1 if dim == axis % len(shape) else 1 for dim in range(len(shape))])
    fits = given.ndim <= len(shape) and all(
        own in {1, size} for own, size in zip(given.shape[::-1], shape[::-1], strict=False)
    )
    return np.broadcast_to(given if fits else np.array(np.nan), shape)


def _differ(before: Array | None, after: Array | None) -> bool:
    """Whether two scales, or zero points, surely differ; a number is equal to a row of it."""
    if before is None or after is None:
        return False
    before, after = before.ravel(), after.ravel()
    comparable = before.size == after.size or 1 in {before.size, after.size}
    return not comparable or bool((before != after).any())
