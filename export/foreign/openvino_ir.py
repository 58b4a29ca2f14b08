"""OpenVINO models of any converter: ``model.xml`` with ``model.bin`` beside it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import UserError
from export.exporters.quantize import INT8
from export.foreign.format import Adopted, ForeignFormat, float_kinds
from export.foreign.ports import Port, match_inputs, match_outputs, matched_facts, renames

if TYPE_CHECKING:
    from export.signature import Signature

_DTYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16", "boolean": "bool"} | {
    f"{letter}{bits}": f"{kind}{bits}" for letter, kind in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True, kw_only=True)
class OpenVinoFormat(ForeignFormat):
    """What is taken in keeps its graph; its inputs and outputs are renamed where they are called otherwise."""

    name: str = "OpenVINO"
    suffixes: tuple[str, ...] = (".xml",)
    main_file: str

    def files(self, file: Path) -> Sequence[Path]:
        """The graph and its weights."""
        weights = file.with_suffix(".bin")
        if not weights.is_file():
            raise UserError(f"{file.name} keeps its weights in {weights.name}, which does not lie beside it")
        return [file, weights]

    def adopt(self, file: Path, signature: Signature, folder: Path) -> Adopted:
        """Copied byte for byte where its names are the model's."""
        from export.runtimes.openvino import read_model, save

        try:
            model = read_model(file)
        except RuntimeError as error:
            raise UserError(f"{file} is no OpenVINO model, or a damaged one: {str(error).splitlines()[-1]}") from error
        known = {spec.name for spec in (*signature.inputs, *signature.outputs)}
        takes = {_name(port, known, number): port for number, port in enumerate(model.inputs)}
        returns = {_name(port, known, number): port for number, port in enumerate(model.outputs)}
        inputs = match_inputs(signature, [_port(name, port) for name, port in takes.items()])
        outputs = match_outputs(signature, [_port(name, port) for name, port in returns.items()])
        names = renames(signature, inputs, outputs)
        target = folder / self.main_file
        if names:
            for name, new_name in names.items():
                (takes | returns)[name].get_tensor().set_names({new_name})
            save(model, folder)
        else:
            for source, suffix in zip(self.files(file), (".xml", ".bin"), strict=True):
                shutil.copyfile(source, target.with_suffix(suffix))
        return Adopted(
            facts={"form": "OpenVINO model"} | matched_facts(inputs, outputs, names), precision=_precision(model)
        )


def _name(port: Any, known: Set[str], number: int) -> str:
    """A tensor may have several names: the model's, if it is among them."""
    names = sorted(port.names)
    return next((name for name in names if name in known), names[0] if names else f"number {number}")


def _precision(model: Any) -> str | None:
    """That of a quantised model, else what its constants are stored in; None where it has none."""
    operations = model.get_ordered_ops()
    if any(operation.get_type_name() == "FakeQuantize" for operation in operations):
        return INT8
    constants = [operation for operation in operations if operation.get_type_name() == "Constant"]
    return float_kinds(_DTYPES.get(constant.get_element_type().get_type_name(), "") for constant in constants)


def _port(name: str, port: Any) -> Port:
    kind, shape = port.get_element_type().get_type_name(), port.get_partial_shape()
    sizes = None if shape.rank.is_dynamic else tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)
    return Port(name=name, dtype=_DTYPES.get(kind, kind), shape=sizes)
