"""Weights that a file does not hold are read from its answers, by as few calls as tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from bench.parity.check import Check
from bench.parity.contents.probe import Call, few_calls
from bench.parity.spec import ParitySpec
from export.build import Source
from export.signature import Signature, SizeRange, TensorSpec
from tests.faults.files import edit_onnx
from tests.model_run import ModelRun

SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", ("batch", 3, 6, 6)),), ranges={"batch": SizeRange(max=8)})


def make(argument: str) -> nn.Module:
    """Its biases are zero, which PyTorch's ONNX exporter leaves out."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ReLU()).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ModelRun:
    folder = tmp_path_factory.mktemp("zero-bias")
    return ModelRun(
        Source(function=f"{__name__}:make", argument=""), SIGNATURE, folder / "run", ParitySpec(rows_count=256)
    )


def _weights(run: ModelRun, folder: Path) -> Check:
    (check,) = [check for check in run.judge(folder).checks if check.level == "weights"]
    return check


def test_a_bias_that_the_file_leaves_out_is_zero_by_its_answers(run: ModelRun, tmp_path: Path) -> None:
    check = _weights(run, run.build("onnx", tmp_path / "onnx"))
    assert (check.status, "1 compiled into code, probed" in check.message) == ("pass", True)


def test_a_constant_in_its_place_is_seen_in_the_answers(run: ModelRun, tmp_path: Path) -> None:
    """The fault: the convolution's answers are off by a thousandth, from a constant that is no bias of its own."""

    def shift(model: onnx.ModelProto) -> None:
        convolution = next(node for node in model.graph.node if node.op_type == "Conv")
        model.graph.initializer.append(numpy_helper.from_array(np.array(1e-3, np.float32), "shift"))
        after = helper.make_node("Add", ["unshifted", "shift"], [convolution.output[0]])
        convolution.output[0] = "unshifted"
        model.graph.node.insert([*model.graph.node].index(convolution) + 1, after)

    folder = run.build("onnx", tmp_path / "onnx")
    edit_onnx(folder, shift)
    check = _weights(run, folder)
    assert (check.status, check.subject) == ("fail", "0.bias")


def test_the_smallest_calls_are_asked_and_never_none() -> None:
    calls: list[Call] = [({}, {"y": np.zeros(size)}, {"y": np.zeros(size)}) for size in (1000, 10, 100)]

    def sizes(most: int) -> list[int]:
        return [wide["y"].size for _, wide, _ in few_calls(calls, most)]

    assert sizes(1) == [10]
    assert sizes(110) == [10, 100]
    assert sizes(2000) == [10, 100, 1000]
