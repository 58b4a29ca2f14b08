"""ONNX files of any exporter or optimiser, weights in files beside them too."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import UserError
from export.exporters.quantize import INT8
from export.files import is_inside
from export.foreign.format import Adopted, ForeignFormat, float_kinds
from export.foreign.ports import Port, match_inputs, match_outputs, matched_facts, renames

if TYPE_CHECKING:
    import onnx

    from export.signature import Signature

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "MatMulInteger", "ConvInteger")


@dataclass(frozen=True, kw_only=True)
class OnnxFormat(ForeignFormat):
    """What is taken in keeps its graph; its inputs and outputs are renamed where they are called otherwise."""

    name: str = "ONNX"
    suffixes: tuple[str, ...] = (".onnx",)
    main_file: str
    """What the backend calls it."""

    def files(self, file: Path) -> Sequence[Path]:
        """The file, and those that hold its weights."""
        model = _read(file)
        beside = [file.parent / location for location in _locations(model, file)]
        if missing := [path for path in beside if not path.is_file()]:
            raise UserError(f"{file.name} keeps weights in {missing[0].name}, which does not lie beside it")
        return [file, *beside]

    def adopt(self, file: Path, signature: Signature, folder: Path) -> Adopted:
        """Copied byte for byte where its names are the model's."""
        model = _read(file)
        takes, returns = ports(model)
        inputs, outputs = match_inputs(signature, takes), match_outputs(signature, returns)
        names = renames(signature, inputs, outputs)
        if names:
            _rename(model, names, folder / self.main_file)
        else:
            shutil.copyfile(file, folder / self.main_file)
        for location in _locations(model, file):
            (folder / location).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.parent / location, folder / location)
        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        producer = " ".join(filter(None, [model.producer_name, model.producer_version]))
        return Adopted(
            facts={"form": f"ONNX by {producer}" if producer else "ONNX", "opset": str(opset)}
            | matched_facts(inputs, outputs, names),
            precision=_precision(model),
        )


def _read(file: Path) -> onnx.ModelProto:
    """The file without the weights beside it.

    Raises:
        UserError: it is no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(file), load_external_data=False)
    except DecodeError as error:
        raise UserError(f"{file} is no ONNX file, or a damaged one: {error}") from error
    if not model.graph.output:
        raise UserError(f"{file} is no ONNX file of a model: its graph returns nothing")
    return model


def read_whole(file: Path) -> onnx.ModelProto:
    """The file with the weights that lie beside it.

    Raises:
        UserError: it is no ONNX file, is damaged, or lacks one of them.
    """
    import onnx

    OnnxFormat(main_file=file.name).files(file)
    return onnx.load(str(file))


def ports(model: onnx.ModelProto) -> tuple[list[Port], list[Port]]:
    """What a model takes, and what it returns.

    Raises:
        UserError: something that is no tensor.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    takes = [_port(value) for value in model.graph.input if value.name not in weights]
    return takes, [_port(value) for value in model.graph.output]


def _locations(model: onnx.ModelProto, file: Path) -> list[str]:
    """The paths of the files with weights, relative to the file.

    Raises:
        UserError: one that leads out of its folder.
    """
    from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

    tensors = [tensor for tensor in _get_all_tensors(model) if uses_external_data(tensor)]
    locations = sorted({ExternalDataInfo(tensor).location for tensor in tensors})
    if outside := [location for location in locations if not is_inside(location)]:
        raise UserError(f"{file.name} keeps weights in {outside[0][:200]!r}, which must lie in its own folder")
    return locations


def _port(value: Any) -> Port:
    import onnx

    kind = value.type.tensor_type
    if not kind.elem_type:
        raise UserError(f"{value.name} of the file is no tensor")
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim)
    return Port(
        name=value.name,
        dtype=onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
        shape=shape if kind.HasField("shape") else None,
    )


def _rename(model: onnx.ModelProto, names: dict[str, str], target: Path) -> None:
    """The graph with inputs and outputs under other names, wherever they are used."""
    import onnx
    import onnx_ir

    renamed = onnx_ir.serde.deserialize_model(model)
    borders = [*renamed.graph.inputs, *renamed.graph.outputs]
    taken = set(names.values())
    inner = [value for node in renamed.graph.all_nodes() for value in node.outputs]
    for value in [*inner, *renamed.graph.initializers.values()]:
        if value.name in taken and not value.is_graph_output():
            value.name = f"{value.name}_inner"
    for value in borders:
        value.name = names.get(str(value.name), value.name)
    onnx.save(onnx_ir.serde.serialize_model(renamed), str(target))


def _precision(model: onnx.ModelProto) -> str | None:
    """That of a quantised model, else what its weights are stored in; None where it has none."""
    import onnx

    if any(node.op_type.startswith(_QUANTIZED) for node in model.graph.node):
        return INT8
    return float_kinds(
        onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name for tensor in model.graph.initializer
    )
