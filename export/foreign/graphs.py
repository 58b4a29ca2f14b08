"""PyTorch's own formats: programs and packages (``.pt2``), TorchScript (``.pt``); they know an order of their inputs.

A file whose ``forward`` has the model's parameters is called by them; another is called in order, the order in which
its nested arguments are flattened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.arrays import dtype_name
from export.device import HOST
from export.errors import UserError
from export.foreign.format import Adopted, ForeignFormat, float_kinds
from export.foreign.narrowed import narrowed
from export.foreign.ports import Matched, Port, match_inputs, matched_facts

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.signature import Signature

FlatCall = Callable[..., "Sequence[torch.Tensor]"]
CALLED = "called"
"""The fact that says how a module is called: ``by name``, or ``in order``."""
ORDER = "order"
"""The fact that has the model's names in the order of a program's tensors."""
_BY_NAME, _IN_ORDER = "by name", "in order"


@dataclass(frozen=True, kw_only=True)
class TorchScriptFormat(ForeignFormat):
    """A scripted or traced module."""

    name: str = "TorchScript"
    suffixes: tuple[str, ...] = (".pt", ".pth", ".ts", ".torchscript")
    main_file: str

    def adopt(self, file: Path, signature: Signature, folder: Path) -> Adopted:
        """Copied as it is."""
        from export.backends.torchscript import opened_graph

        try:
            graph = opened_graph(file, HOST)
        except RuntimeError as error:
            raise UserError(
                f"{file} is no TorchScript file, or a damaged one (weights alone, as torch.save writes them, are no "
                f"model): {str(error).splitlines()[0].partition('. ')[0]}"
            ) from error
        matched = match_inputs(signature, [Port(name=name) for name in _parameters(graph)])
        shutil.copyfile(file, folder / self.main_file)
        facts = {"form": "TorchScript", CALLED: _how(graph, signature, matched)}
        precision = _precision(graph.state_dict())
        if narrowed(precision, "+".join(spec.dtype for spec in signature.inputs)) != precision:
            _check_called(file, call_of_graph(graph, signature, facts), signature)
        return Adopted(facts=facts, precision=precision)


@dataclass(frozen=True, kw_only=True)
class ProgramFormat(ForeignFormat):
    """A program that ``torch.export.save`` wrote."""

    name: str = "torch.export program"
    suffixes: tuple[str, ...] = (".pt2",)
    main_file: str

    def is_format_of(self, file: Path) -> bool:
        """Whether it holds no compiled code."""
        return super().is_format_of(file) and not _is_package(file)

    def adopt(self, file: Path, signature: Signature, folder: Path) -> Adopted:
        """Copied as it is.

        Raises:
            RecordError: the file could run code when it is loaded.
        """
        from export.program import load_exported

        program = load_exported(file)
        ports = _placeholders(program)
        matched = match_inputs(signature, ports)
        shutil.copyfile(file, folder / self.main_file)
        names = {port.name: spec.name for port, spec in zip(matched.ports, signature.inputs, strict=True)}
        order = ", ".join(names[port.name] for port in ports)
        return Adopted(
            facts={"form": "torch.export program", ORDER: order} | matched_facts(matched),
            precision=_precision(program.state_dict),
        )


@dataclass(frozen=True, kw_only=True)
class PackageFormat(ForeignFormat):
    """A package that AOTInductor compiled; it keeps no names."""

    name: str = "AOTInductor package"
    suffixes: tuple[str, ...] = (".pt2",)
    main_file: str

    def is_format_of(self, file: Path) -> bool:
        """Whether it holds compiled code."""
        return super().is_format_of(file) and _is_package(file)

    def adopt(self, file: Path, signature: Signature, folder: Path) -> Adopted:
        """Copied as it is: nothing of it is loaded, whose code would run."""
        shutil.copyfile(file, folder / self.main_file)
        return Adopted(facts={"form": "AOTInductor package"})


def call_of_graph(graph: nn.Module, signature: Signature, facts: Mapping[str, str]) -> FlatCall:
    """The module of a TorchScript file behind flat tensors in the signature's order."""
    from export.flat import FlatModule, name_outputs

    if facts[CALLED] == _BY_NAME:
        return FlatModule(graph, signature)

    def call(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        return tuple(name_outputs(graph(*tensors), signature.output_names).values())

    return call


def call_of_program(program: torch.export.ExportedProgram, signature: Signature, facts: Mapping[str, str]) -> FlatCall:
    """A program behind flat tensors in the signature's order; what is constant in its arguments is put in its place."""
    from torch.utils._pytree import tree_unflatten

    from export.flat import name_outputs

    module, spec, user_inputs = program.module(), program.call_spec.in_spec, program.graph_signature.user_inputs
    assert spec is not None
    numbers = {tensor.name: number for number, tensor in enumerate(signature.inputs)}
    places = [numbers[name] for name in facts[ORDER].split(", ")]

    def call(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        left = (tensors[place] for place in places)
        leaves = [next(left) if isinstance(user_input, str) else user_input for user_input in user_inputs]
        positional, keywords = tree_unflatten(leaves, spec)
        return tuple(name_outputs(module(*positional, **keywords), signature.output_names).values())

    return call


def _check_called(file: Path, call: FlatCall, signature: Signature) -> None:
    """See that a module in half precision takes inputs of the model's dtypes: its file does not say which it takes.

    Raises:
        UserError: it does not.
    """
    import torch

    from export.arrays import to_torch

    inputs = [to_torch(array) for array in signature.example(signature.example_sizes(), seed=0).values()]
    try:
        with torch.inference_mode():
            call(*inputs)
    except RuntimeError as error:
        raise UserError(
            f"{file.name} is in half precision and does not take the model's own inputs: let its forward cast what it "
            f"takes and returns, or check model.half() ({str(error).strip().splitlines()[-1][:200]})"
        ) from error


def _precision(state: Mapping[str, torch.Tensor]) -> str | None:
    return float_kinds(dtype_name(tensor) for tensor in state.values())


def _how(module: nn.Module, signature: Signature, matched: Matched) -> str:
    """How the file is called: by name wherever its ``forward`` binds the model's inputs."""
    from export.arguments import Arguments

    if matched.by_order:
        return _IN_ORDER
    try:
        Arguments.of(module, signature.inputs, signature.constants)
    except UserError:
        return _IN_ORDER
    return _BY_NAME


def _parameters(graph: Any) -> list[str]:
    """The parameters of a compiled ``forward`` that need a value."""
    arguments = graph.forward.schema.arguments[1:]
    return [argument.name for argument in arguments if not argument.has_default_value()]


def _placeholders(program: torch.export.ExportedProgram) -> list[Port]:
    from export.arrays import dtype_name

    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [(name, values[name]) for name in program.graph_signature.user_inputs if isinstance(name, str)]
    return [
        Port(
            name=name,
            dtype=dtype_name(value),
            shape=tuple(size if isinstance(size, int) else None for size in value.shape),
        )
        for name, value in tensors
    ]


def _is_package(file: Path) -> bool:
    """Whether a ``.pt2`` holds a compiled library.

    Raises:
        UserError: it is no archive.
    """
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            return any("/aotinductor/" in f"/{name}" for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise UserError(f"{file} is neither a program nor a package of PyTorch's: {error}") from error
