"""What ONNX files say of their quantised tensors is read in every form that the standard has, and never in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.exporters.onnx_file import read_contents

INTEGERS = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6])


def saved(folder: Path, nodes: list[Any], tensors: dict[str, np.ndarray[Any, Any]]) -> Path:
    """A valid file of opset 21 that multiplies ``x`` by ``w``."""
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph([*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])], "graph", [X], [Y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def row(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("scale", "settings", "steps"),
    [
        (np.float32(0.5).reshape(()), {}, np.full((4, 6), 0.5)),
        (row(0.5), {}, np.full((4, 6), 0.5)),
        (row(1, 2, 3, 4), {"axis": 0}, np.repeat([[1], [2], [3], [4]], 6, 1)),
        (row(1, 2, 3, 4, 5, 6), {"axis": -1}, np.tile([1, 2, 3, 4, 5, 6], (4, 1))),
        (np.arange(1, 13, dtype=np.float32).reshape(2, 6), {"axis": 0, "block_size": 2},
         np.arange(1, 13).reshape(2, 6).repeat(2, 0)),
        (np.arange(1, 9, dtype=np.float32).reshape(4, 2), {"axis": 1, "block_size": 4},
         np.arange(1, 9).reshape(4, 2).repeat(4, 1)[:, :6]),
    ],
    ids=["a number", "a row of one", "rows", "columns", "blocks of rows", "blocks with a short last one"],
)  # fmt: skip
def test_steps_are_read_by_tensor_by_channel_and_in_blocks(
    scale: np.ndarray[Any, Any], settings: dict[str, Any], steps: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    zero = np.full(scale.shape, 3, np.int8)
    node = helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], **settings)
    (read,) = read_contents(saved(tmp_path, [node], {"q": INTEGERS, "scale": scale, "zero": zero})).quantized
    assert np.array_equal(read.steps, steps)
    assert np.array_equal(read.values, (INTEGERS.astype(float) - 3) * steps)


def test_a_scale_may_be_a_constant_and_one_that_is_computed_is_not_known(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["scale"], value_float=0.25)
    node = helper.make_node("DequantizeLinear", ["q", "scale"], ["w"])
    (read,) = read_contents(saved(tmp_path, [constant, node], {"q": INTEGERS})).quantized
    assert np.array_equal(read.values, INTEGERS * 0.25)
    computed = helper.make_node("ReduceMax", ["x"], ["scale"], keepdims=0)
    (read,) = read_contents(saved(tmp_path, [computed, node], {"q": INTEGERS})).quantized
    assert np.isnan(read.steps).all()


@pytest.mark.parametrize(
    ("before", "after", "differ"),
    [
        (row(0.5), np.float32(0.5).reshape(()), False),
        (row(0.5), row(0.5), False),
        (row(0.5), np.float32(0.25).reshape(()), True),
    ],
)
def test_a_number_equals_a_row_of_it(
    before: np.ndarray[Any, Any], after: np.ndarray[Any, Any], differ: bool, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["float", "before"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "after"], ["w"]),
    ]
    tensors = {"float": np.ones((4, 6), np.float32), "before": before, "after": after}
    assert read_contents(saved(tmp_path, nodes, tensors)).unequal == (("float",) if differ else ())


def test_an_ordinary_file_has_none_and_casts_within_branches_are_seen(tmp_path: Path) -> None:
    def branch(kind: int) -> onnx.GraphProto:
        nodes = [helper.make_node("Cast", ["x"], ["c"], to=kind), helper.make_node("Cast", ["c"], ["d"], to=1)]
        return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info("d", TensorProto.FLOAT, [2, 4])])

    constant = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    choice = helper.make_node("If", ["yes"], ["chosen"], then_branch=branch(10), else_branch=branch(16))
    contents = read_contents(saved(tmp_path, [constant, choice], {"w": INTEGERS.astype(np.float32)}))
    assert (contents.quantized, contents.unequal) == ((), ())
    assert contents.casts == ("bfloat16", "float16", "float32")
