"""What an ONNX graph computes in, read off the graph as the runtime runs it, beside what its file holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from export.environment import cpu_flags
from export.exporters.narrowing import BFLOAT16, FLOAT16
from export.exporters.quantize import INT8

_INT8_NODES = re.compile(r"QLinear|QGemm|QAttention|MatMulInteger|ConvInteger|DynamicQuantize")
"""Operators that compute in integers; what is only dequantised first is computed in float32."""
_INSTRUCTIONS = {
    FLOAT16: {"avx512_fp16": "AVX512-FP16", "amx_fp16": "AMX-FP16", "asimdhp": "FP16"},
    BFLOAT16: {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16", "bf16": "BF16"},
    INT8: {"avx512_vnni": "VNNI", "avx_vnni": "AVX-VNNI", "amx_int8": "AMX-INT8", "asimddp": "dot products"},
}
"""What a processor multiplies a precision with, by the flag that Linux gives it (x86, then ARM)."""


def arithmetic(rewritten: Any, file: Path) -> dict[str, str]:
    """What a rewritten graph computes in; and where the file is in half precision and the graph is not, that."""
    import onnx

    computed = precision(rewritten)
    stored = _float_kinds(onnx.load(str(file), load_external_data=False).graph)
    lost = sorted({*stored} & {*_INSTRUCTIONS} - {*_float_kinds(rewritten)})
    if not lost:
        return {"precision": computed}
    why = f"ONNX Runtime computes {lost[0]} in float32 here, for want of kernels: a smaller file, and no faster"
    lacks = unaided(lost[0])
    return {
        "precision": computed,
        "stored": "+".join(stored),
        "why_slow": f"{why}; {lacks}" if lacks else why,
    }


def precision(graph: Any) -> str:
    """What a rewritten graph computes in: the float types of its weights, and nodes in int8."""
    integer_count = sum(bool(_INT8_NODES.match(node.op_type)) for node in graph.node)
    return "+".join(_float_kinds(graph) or ["float32"]) + (
        f", {integer_count} of {len(graph.node)} nodes int8" if integer_count else ""
    )


def unaided(kind: str) -> str | None:
    """That this processor has no instructions for a precision; None where it has, or where nobody knows."""
    flags, known = cpu_flags(), _INSTRUCTIONS.get(kind, {})
    if not flags or not known or flags & known.keys():
        return None
    return f"this processor has no instructions for {kind} ({', '.join(known.values())})"


def _float_kinds(graph: Any) -> list[str]:
    import onnx

    kinds = {onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name for tensor in graph.initializer}
    return sorted(kind for kind in kinds if kind.startswith(("float", "bfloat")))
