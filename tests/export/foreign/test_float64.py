"""An ONNX file in float64 computes in double from beginning to end, operator by operator, with or without a kernel."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from export.errors import UserError
from export.flat import FlatModule
from export.foreign.original import OnnxOriginal
from export.signature import Signature, TensorSpec

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(2, 4, 6, 6)).astype(np.float32)
WEIGHT = GENERATOR.normal(size=(6, 2, 3, 3)).astype(np.float32)
PER_CHANNEL = np.abs(GENERATOR.normal(size=4)).astype(np.float32)
PLACES = GENERATOR.integers(-2, 2, size=(70, 4, 6, 6))
Torch = Callable[[torch.Tensor], torch.Tensor]
W, C = torch.tensor(WEIGHT).double(), torch.tensor(PER_CHANNEL).double()

CASES: dict[str, tuple[list[np.ndarray[Any, Any]], dict[str, Any], Torch]] = {
    "Erf": ([], {}, torch.erf),
    "Gelu": ([], {}, F.gelu),
    "Softmax": ([], {"axis": 1}, lambda x: torch.softmax(x, 1)),
    "AveragePool": ([], {"kernel_shape": [2, 2], "strides": [2, 2]}, lambda x: F.avg_pool2d(x, 2)),
    "Cast": ([], {"to": TensorProto.FLOAT16}, lambda x: x),
    "Conv": (
        [WEIGHT], {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1]},
        lambda x: F.conv2d(F.pad(x, (0, 1, 1, 2)), W, stride=(2, 1), groups=2),
    ),
    "GatherElements": (
        [PLACES], {"axis": 0}, lambda x: torch.from_numpy(np.take_along_axis(x.numpy(), PLACES % 2, 0))
    ),
    "InstanceNormalization": (
        [PER_CHANNEL, PER_CHANNEL], {"epsilon": 0.5}, lambda x: F.instance_norm(x, weight=C, bias=C, eps=0.5)
    ),
    "Resize": (
        [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        lambda x: F.interpolate(x, scale_factor=2.0),
    ),
}  # fmt: skip


def write(path: Path, nodes: list[onnx.NodeProto], weights: list[np.ndarray[Any, Any]]) -> OnnxOriginal:
    """A model of some nodes from ``x``, in float32, to ``y``; its weights are ``w0``, ``w1``, ..."""
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
    return OnnxOriginal(path)


@pytest.mark.parametrize("operator", CASES)
def test_an_operator_in_float64_is_exact_to_double_precision(operator: str, tmp_path: Path) -> None:
    weights, attributes, in_torch = CASES[operator]
    names = ["x", *(f"w{number}" for number in range(len(weights)))]
    nodes = [helper.make_node(operator, names, ["z"], **attributes), helper.make_node("Cast", ["z"], ["y"], to=1)]
    original = write(tmp_path / "model.onnx", nodes, weights)
    x = torch.tensor(X).double()
    answer = copy.deepcopy(original).double()(x)["y"]
    want = in_torch(x)
    assert answer.dtype == torch.float64
    assert float((answer - want).abs().max()) <= 1e-13 * float(want.abs().max())
    narrow = float((original(torch.tensor(X))["y"] - want).abs().max())
    assert narrow > 1e-9 or operator in {"GatherElements", "Resize"}  # which round nothing


def test_constants_and_branches_are_double_too(tmp_path: Path) -> None:
    third = numpy_helper.from_array(np.array(1 / 3, np.float32))
    branches = {
        f"{name}_branch": helper.make_graph(
            [
                helper.make_node("Constant", [], [f"c_{name}"], value_float=value),
                helper.make_node("Exp", [f"c_{name}"], [f"e_{name}"]),
                helper.make_node("Mul", ["scaled", f"e_{name}"], [f"out_{name}"]),
            ],
            name, [], [helper.make_tensor_value_info(f"out_{name}", TensorProto.FLOAT, None)],
        )
        for name, value in (("then", 0.1), ("else", 0.2))
    }  # fmt: skip
    original = write(
        tmp_path / "model.onnx",
        [
            helper.make_node("Constant", [], ["third"], value=third),
            helper.make_node("Mul", ["x", "third"], ["scaled"]),
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Constant", [], ["zero"], value_float=0.0),
            helper.make_node("Greater", ["sum", "zero"], ["positive"]),
            helper.make_node("If", ["positive"], ["y"], **branches),
        ],
        [],
    )
    x = torch.tensor(X).double()
    factor = np.float32(0.1 if float(x.sum()) > 0 else 0.2).astype(np.float64)
    want = x * float(np.float32(1 / 3)) * float(np.exp(factor))
    answer = copy.deepcopy(original).double()(x)["y"]
    assert float((answer - want).abs().max()) <= 1e-14


def test_a_file_goes_to_another_process_and_is_not_traced(tmp_path: Path) -> None:
    original = write(tmp_path / "model.onnx", [helper.make_node("Tanh", ["x"], ["y"])], [])
    x = torch.tensor(X)
    before = original(x)["y"]
    assert torch.equal(cloudpickle.loads(cloudpickle.dumps(original))(x)["y"], before)
    assert original.dynamic == {"x": ("batch", None, None, None)}
    signature = Signature(inputs=(TensorSpec("x", "float32", (2, 4, 6, 6)),), output_names=("y",))
    with pytest.raises(UserError, match="it is not traced"):
        torch.export.export(FlatModule(original, signature), (x,))


def test_examples_are_drawn_unless_there_are_integers(tmp_path: Path) -> None:
    original = write(tmp_path / "model.onnx", [helper.make_node("Tanh", ["x"], ["y"])], [])
    assert original.drawn(seed=0)["x"].shape == (3, 4, 6, 6)
    ids = helper.make_tensor_value_info("1.ids", TensorProto.INT64, ["batch", None])
    out = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    graph = helper.make_graph([helper.make_node("Neg", ["1.ids"], ["y"])], "graph", [ids], [out])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "ids.onnx")
    with_ids = OnnxOriginal(tmp_path / "ids.onnx")
    assert with_ids.dynamic == {"_1_ids": ("batch", "_1_ids_1")}
    assert with_ids.named({"1.ids": 5}) == {"_1_ids": 5}
    with pytest.raises(UserError, match=r"give examples: nobody knows what values 1\.ids may take"):
        with_ids.drawn(seed=0)
