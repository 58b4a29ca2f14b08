"""Whether ONNX Runtime computes in bfloat16 on a device: it is asked, since what it can grows with its versions."""

from __future__ import annotations

from functools import cache

from export.backend import LoadOptions
from export.device import Device
from export.runtimes.onnxruntime import OnnxRuntimeOptions, open_session, refusals


@cache
def no_bfloat16(where: Device) -> str | None:
    """Why no session opens on a product of two matrices in bfloat16; None where one does.

    float16 is different: what ONNX Runtime has no kernel for it computes in float32 (export/runtimes/precision.py).
    """
    import onnx
    from onnx import TensorProto, helper

    half = TensorProto.BFLOAT16
    weights = helper.make_tensor("w", half, [8, 8], [1.0] * 64)
    value = [helper.make_tensor_value_info(name, half, [8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "probe", value[:1], value[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    try:
        open_session(model.SerializeToString(), LoadOptions(device=where.name), OnnxRuntimeOptions())
    except refusals() as error:
        reason = str(error).splitlines()[0].rpartition(" : ")[2]
        return (
            f"ONNX Runtime has no bfloat16 kernels on {where.name}, and computes none of it in float32 ({reason}): "
            "take onnx-fp16, or aotinductor-bf16"
        )
    return None
