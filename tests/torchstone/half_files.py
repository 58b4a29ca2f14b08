"""Files in half precision as converters make them, by hand: ``python -m ... FOLDER``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.torchstone.foreign_files import Net, examples

Half = int
"""A dtype by ONNX's number."""


class Halved(nn.Module):
    """The model in half precision behind inputs and outputs in single, as ``model.half()`` is deployed."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net.to(dtype), dtype

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        answers: dict[str, torch.Tensor] = self.net(ids, mask.to(self.dtype))
        return {name: answer.float() for name, answer in answers.items()}


def narrow(model: onnx.ModelProto, half: Half, change: Callable[[str, np.ndarray], None] | None = None) -> None:
    """Give every weight in single precision the narrower dtype, in place; ``change`` alters values before that."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).copy()
            if change is not None:
                change(tensor.name, values)
            narrower = values.astype(helper.tensor_dtype_to_np_dtype(half))
            tensor.CopyFrom(numpy_helper.from_array(narrower, tensor.name))


def cast_weights(model: onnx.ModelProto, half: Half) -> None:
    """Weights are stored narrow, and widened before they are used: a file of half the size."""
    narrow(model, half)
    nodes = []
    for tensor in model.graph.initializer:
        if tensor.data_type == half:
            nodes.append(helper.make_node("Cast", [tensor.name], [f"{tensor.name}_wide"], to=TensorProto.FLOAT))
            _rewire(model, tensor.name, f"{tensor.name}_wide")
    _put_first(model, nodes)


def cast_borders(model: onnx.ModelProto, half: Half) -> None:
    """All is computed narrow but the inputs and outputs, which stay as they are (``keep_io_types``)."""
    narrow(model, half)
    del model.graph.value_info[:]
    _rewire(model, "mask", "mask_narrow")
    _put_first(model, [helper.make_node("Cast", ["mask"], ["mask_narrow"], to=half)])
    for node in model.graph.node:
        for attribute in node.attribute:  # what casts to single precision within casts to half
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = half
    for value in model.graph.output:
        for node in model.graph.node:
            node.output[:] = [f"{name}_narrow" if name == value.name else name for name in node.output]
        _rewire(model, value.name, f"{value.name}_narrow")
        model.graph.node.append(helper.make_node("Cast", [f"{value.name}_narrow"], [value.name], to=TensorProto.FLOAT))


def _rewire(model: onnx.ModelProto, name: str, other: str) -> None:
    for node in model.graph.node:
        node.input[:] = [other if taken == name else taken for taken in node.input]


def _put_first(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    rest = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def write(folder: Path, *, every: bool) -> None:
    """Right files, and wrong ones; a few of them, or one for each format and precision."""
    net, (ids, mask) = Net().eval(), examples()
    batch = {0: torch.export.Dim("batch", max=1024)}
    torch.onnx.export(
        net, (ids, mask), folder / "single.onnx", dynamo=False, input_names=["ids", "mask"],
        output_names=["scores", "hidden"], dynamic_axes={"ids": {0: "batch"}, "mask": {0: "batch"}},
    )  # fmt: skip

    def convert(name: str, convert: Callable[[onnx.ModelProto, Half], None], half: Half) -> None:
        model = onnx.load(str(folder / "single.onnx"))
        convert(model, half)
        onnx.save(model, str(folder / name))

    def off(by: float) -> Callable[[onnx.ModelProto, Half], None]:
        def alter(name: str, values: np.ndarray) -> None:
            if "head.weight" in name or values.shape in {(4, 32), (32, 4)}:
                values.flat[0] *= 1 + by

        def converted(model: onnx.ModelProto, half: Half) -> None:
            narrow(model, TensorProto.FLOAT, alter)
            cast_borders(model, half)

        return converted

    convert("half.onnx", cast_borders, TensorProto.FLOAT16)
    convert("off.onnx", off(0.01), TensorProto.FLOAT16)
    torch.jit.trace(Net().eval().half(), (ids, mask.half()), strict=False).save(str(folder / "borders.pt"))
    if not every:
        return
    convert("stored.onnx", cast_weights, TensorProto.FLOAT16)
    convert("stored16.onnx", cast_weights, TensorProto.BFLOAT16)
    convert("far.onnx", off(5.0), TensorProto.FLOAT16)
    pairs = (ids, mask)
    torch.jit.trace(Halved(Net().eval(), torch.float16), pairs, strict=False).save(str(folder / "half.pt"))
    torch.jit.trace(Halved(Net().eval(), torch.bfloat16), pairs, strict=False).save(str(folder / "half16.pt"))
    program = torch.export.export(
        Halved(Net().eval(), torch.bfloat16), pairs, dynamic_shapes={"ids": batch, "mask": batch}
    )
    torch.export.save(program, folder / "half16.pt2")
    torch.onnx.export(
        Net().eval().half(), (ids, mask.half()), folder / "borders.onnx", dynamo=True, external_data=False,
        dynamic_shapes={"ids": batch, "mask": batch}, output_names=["scores", "hidden"],
    )  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write(Path(sys.argv[1]), every="--every" in sys.argv)
