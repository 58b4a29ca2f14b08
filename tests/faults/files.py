"""Faults that are edited into built files: ONNX graphs, exported programs, bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from bench.parity.spec import ParitySpec
from export.arrays import to_torch
from export.artifact import RECORD, open_artifact
from export.exporters.onnx_file import module_of
from export.flat import FlatModule
from export.program import quiet
from export.record import write
from tests.faults.kinds import Kind
from tests.faults.models import SIGNATURES, TRACEABLE, source
from tests.model_run import ModelRun, vouch

Edit = Callable[[onnx.ModelProto], str | None]


def edit_onnx(folder: Path, edit: Edit) -> str | None:
    """Edit an artifact's ONNX file, and its record so that it vouches for the edited one."""
    model = onnx.load(folder / "model.onnx")
    where = edit(model)
    onnx.save(model, folder / "model.onnx")
    vouch(folder)
    return where


def _scope(node: onnx.NodeProto) -> str:
    return module_of(node) or ""


def _matrix(model: onnx.ModelProto, change: Callable[[np.ndarray[Any, Any]], Any]) -> str:
    """Change the last weight matrix; the module is that of the node that reads it."""
    tensors = [t for t in model.graph.initializer if len(t.dims) >= 2 and t.data_type == onnx.TensorProto.FLOAT]
    tensor = tensors[-1]
    array = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), tensor.name))
    return _scope(next(node for node in model.graph.node if tensor.name in node.input))


def _scaled(factor: float) -> Edit:
    def change(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array.flat[np.abs(array).argmax()] *= factor
        return array

    return lambda model: _matrix(model, change)


def _nan(model: onnx.ModelProto) -> str:
    def change(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array.flat[0] = np.nan
        return array

    return _matrix(model, change)


def _node(model: onnx.ModelProto, *kinds: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if node.op_type in kinds)
    return found


def _operator(old: tuple[str, ...], new: str) -> Edit:
    def edit(model: onnx.ModelProto) -> str:
        node = _node(model, *old)
        node.op_type = new
        return _scope(node)

    return edit


def _average_for_maximum(model: onnx.ModelProto) -> str:
    node = _node(model, "MaxPool")
    node.op_type = "AveragePool"
    for attribute in [attribute for attribute in node.attribute if attribute.name == "storage_order"]:
        node.attribute.remove(attribute)
    return _scope(node)


def _attribute(kind: str, name: str, change: Callable[[Any], Any]) -> Edit:
    def edit(model: onnx.ModelProto) -> str:
        node = _node(model, kind)
        attribute = next(attribute for attribute in node.attribute if attribute.name == name)
        value = change(helper.get_attribute_value(attribute))
        node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute(name, value))
        return _scope(node)

    return edit


def _behind_output(model: onnx.ModelProto, make: Callable[[str, str], list[onnx.NodeProto]]) -> str:
    """Put nodes between the last node and the first output."""
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    last.output[list(last.output).index(output)] = "before_the_fault"
    model.graph.node.extend(make("before_the_fault", output))
    return _scope(last)


def _cast(middle: int) -> Edit:
    def make(before: str, after: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Cast", [before], ["narrow"], to=middle),
            helper.make_node("Cast", ["narrow"], [after], to=onnx.TensorProto.FLOAT),
        ]

    return lambda model: _behind_output(model, make)


def _with_constant(operator: str, value: Any, **attributes: Any) -> Edit:
    def edit(model: onnx.ModelProto) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), "fault"))
        return _behind_output(
            model, lambda before, after: [helper.make_node(operator, [before, "fault"], [after], **attributes)]
        )

    return edit


def _outputs_exchanged(model: onnx.ModelProto) -> None:
    """The names of both outputs, the one's on the other: no operator is at fault."""
    one, two = (value.name for value in model.graph.output)
    other = {one: two, two: one}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = other.get(name, name)


def _missing_output(model: onnx.ModelProto) -> None:
    del model.graph.output[-1]


def _extra_output(model: onnx.ModelProto) -> None:
    """One more of the inner values as an output, under the name that another was promised under."""
    model.graph.output[0].name = "another"
    node = next(node for node in model.graph.node if "total" in node.output)
    node.output[0] = "another"


def _wrong_dtype(model: onnx.ModelProto) -> str:
    where = _behind_output(
        model, lambda before, after: [helper.make_node("Cast", [before], [after], to=onnx.TensorProto.DOUBLE)]
    )
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return where


def _gemm_untransposed(model: onnx.ModelProto) -> str:
    """Only a square weight still fits."""
    node = next(
        node
        for node in model.graph.node
        if node.op_type == "Gemm"
        and any(t.name == node.input[1] and len(set(t.dims)) == 1 for t in model.graph.initializer)
    )
    next(attribute for attribute in node.attribute if attribute.name == "transB").i = 0
    return _scope(node)


def _rotated(model: onnx.ModelProto) -> str:
    """Every row answered with its neighbour's answer."""
    for name, value in (("one", [1]), ("end", [2**31]), ("zero", [0]), ("axis", [0])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"fault_{name}"))
    return _behind_output(
        model,
        lambda before, after: [
            helper.make_node("Slice", [before, "fault_one", "fault_end", "fault_axis"], ["tail"]),
            helper.make_node("Slice", [before, "fault_zero", "fault_one", "fault_axis"], ["start"]),
            helper.make_node("Concat", ["tail", "start"], [after], axis=0),
        ],
    )


_FIT = ("Mlp", "Cnn", "Encoder", "Pair", "Tokens")


def _in_onnx(name: str, models: tuple[str, ...], edit: Edit, **more: Any) -> Kind:
    return Kind(name=f"ONNX: {name}", where="onnx", models=models, edit=edit, **more)


IN_ONNX = [
    _in_onnx("one weight x 1.001", _FIT, _scaled(1.001)),
    _in_onnx("one weight x 1.00001", _FIT, _scaled(1.00001), levels=("weights",)),
    _in_onnx("one weight NaN", _FIT, _nan, levels=("structure",)),
    _in_onnx("weights rounded to fp16", _FIT, lambda model: _matrix(model, lambda array: array.astype(np.float16))),
    _in_onnx("a matrix not transposed", ("Mlp",), _gemm_untransposed),
    _in_onnx("another activation", ("Mlp", "Pair"), _operator(("Tanh", "Sigmoid"), "Softsign")),
    _in_onnx("no activation", ("Mlp", "Cnn"), _operator(("Relu",), "Identity")),
    _in_onnx("epsilon x 10", ("Encoder",), _attribute("LayerNormalization", "epsilon", lambda e: e * 10)),
    _in_onnx(
        "epsilon x 1.01",
        ("Encoder",),
        _attribute("LayerNormalization", "epsilon", lambda e: e * 1.01),
        levels=("attributes",),
    ),
    _in_onnx("softmax over the wrong axis", ("Encoder",), _attribute("Softmax", "axis", lambda axis: 1)),
    _in_onnx("padding on one side", ("Cnn",), _attribute("Conv", "pads", lambda pads: [0, 0, 2, 2])),
    _in_onnx("maximum to average", ("Cnn",), _average_for_maximum),
    _in_onnx("through half precision", _FIT, _cast(onnx.TensorProto.FLOAT16)),
    _in_onnx("through bfloat16", _FIT, _cast(onnx.TensorProto.BFLOAT16)),
    _in_onnx("a constant added", _FIT, _with_constant("Add", np.float32(1e-4))),
    _in_onnx("outputs x 1.0001", _FIT, _with_constant("Mul", np.float32(1.0001))),
    _in_onnx(
        "only the first row", _FIT, _with_constant("Gather", np.zeros(1, np.int64), axis=0), levels=("structure",)
    ),
    _in_onnx("rows rotated", ("Mlp",), _rotated),
    _in_onnx("outputs exchanged", ("Pair",), _outputs_exchanged),
    _in_onnx("an output missing", ("Pair",), _missing_output, levels=("structure",)),
    _in_onnx("an output under another name", ("Pair",), _extra_output, levels=("structure",)),
    _in_onnx("wrong dtype", _FIT, _wrong_dtype, levels=("structure",)),
]


def _truncated(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    vouch(folder)


def _frozen_batch(folder: Path) -> None:
    """The program traced without a dynamic dimension, under a record that promises one."""
    signature = open_artifact(folder).signature
    module = torch.export.load(folder / "model.pt2").module()
    example = tuple(to_torch(array) for array in signature.example(signature.example_sizes(), seed=0).values())
    torch.export.save(torch.export.export(module, example), folder / "model.pt2")
    vouch(folder)


def _traced(model: str) -> Callable[[Path], None]:
    """TorchScript by tracing alone: what the example did is baked in."""

    def edit(folder: Path) -> None:
        artifact = open_artifact(folder)
        signature = artifact.signature
        example = tuple(to_torch(array) for array in signature.example(signature.example_sizes(), seed=0).values())
        module = source(model).module()
        with quiet():
            traced = torch.jit.trace(FlatModule(module, signature).eval(), example, check_trace=False)
            torch.jit.freeze(traced).save(str(folder / "model.ts"))
        write(folder / RECORD, replace(artifact, facts={"form": "trace"}))
        vouch(folder)

    return edit


def _other_model(model: str) -> Callable[[Path], None]:
    """The file of a model with the same interface and other weights."""

    def edit(folder: Path) -> None:
        other = ModelRun(source(model, seed=8), SIGNATURES[model], folder.parent / "other", ParitySpec(rows_count=8))
        shutil.copyfile(other.build("onnx", folder.parent / "other-onnx") / "model.onnx", folder / "model.onnx")
        vouch(folder)

    return edit


IN_FILES = [
    Kind(name="a truncated file", where="file", models=("Mlp",), edit=_truncated, levels=("load",), backends=("onnx",)),
    *(
        Kind(name="another model's file", where="file", models=(model,), edit=_other_model(model), backends=("onnx",),
             placed=False)
        for model in TRACEABLE
    ),
    Kind(name="a frozen batch", where="file", models=("Mlp", "Pair"), edit=_frozen_batch,
         levels=("structure", "sizes", "calls"), backends=("exported",)),
    Kind(name="a branch baked in by tracing", where="file", models=("Branching",), edit=_traced("Branching"),
         levels=("values",), backends=("torchscript",)),
    Kind(name="a loop count baked in by tracing", where="file", models=("Looping",), edit=_traced("Looping"),
         levels=("values", "calls", "error"), backends=("torchscript",)),
]  # fmt: skip
