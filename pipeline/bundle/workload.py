"""The reference workload: a small fixed computation that travels with a bundle.

Machines differ, so a latency that was measured elsewhere says little here; its ratio to the time of the same workload
on both machines says more. Eight products of 256 x 256 float32 matrices with a rectifier in between: about a fifth of a
millisecond on one core, small enough to stay in its cache, and the kind of work that models are made of.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_SIZE, _LAYERS = 256, 8
_OPSET, _IR_VERSION = 13, 7
"""Old ones, so that every runtime of these years loads it."""


def write_workload(path: Path) -> None:
    """The same bytes every time."""
    generator = np.random.default_rng(0)
    weight = (generator.standard_normal((_SIZE, _SIZE)) / np.sqrt(_SIZE)).astype(np.float32)
    nodes = []
    value = "x"
    for layer in range(_LAYERS):
        nodes += [
            helper.make_node("MatMul", [value, "weight"], [f"product{layer}"]),
            helper.make_node("Relu", [f"product{layer}"], [f"value{layer}"]),
        ]
        value = f"value{layer}"
    graph = helper.make_graph(
        nodes,
        "workload",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [32, _SIZE])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [32, _SIZE])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    model.producer_name, model.producer_version = "torchstone", ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
