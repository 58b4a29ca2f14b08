"""What an ONNX graph computes in, read off the graph as the runtime runs it."""

from __future__ import annotations

import re
from typing import Any

_INT8 = re.compile(r"QLinear|QGemm|QAttention|MatMulInteger|ConvInteger|DynamicQuantize")
"""Operators that compute in integers; what is only dequantised first is computed in float32."""


def precision(graph: Any) -> str:
    """What a rewritten graph computes in: the float types of its weights, and nodes in int8."""
    import onnx

    kinds = {onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in graph.initializer}
    floats = sorted(kind.name for kind in kinds if kind.name.startswith(("float", "bfloat")))
    integer_count = sum(bool(_INT8.match(node.op_type)) for node in graph.node)
    return "+".join(floats or ["float32"]) + (
        f", {integer_count} of {len(graph.node)} nodes int8" if integer_count else ""
    )
