"""PyTorch's two ONNX exporters: dynamo's, from the traced program; the older, from the module traced or scripted."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.arrays import to_torch
from export.errors import UserError
from export.sizes import UNKNOWN, from_torch

if TYPE_CHECKING:
    import torch

    from export.backend import BuildInput
    from export.signature import Signature

_LEGACY_OPSET = 17
"""The newest in which the older exporter knows layer normalisation as one operator, and which all runtimes load."""
_ONE_FILE_BYTES = 2 * 1024**3 - 64 * 1024**2
"""Protobuf ends at 2 GiB; what the graph needs besides its weights stays far below the margin."""


def export_program(source: BuildInput, path: Path, *, products: bool = False) -> dict[str, str]:
    """Export the traced program with the signature's names, check the file with ONNX's own checker; returns facts.

    ``products`` takes every short Fourier transform for a product with its matrix.
    """
    import onnx
    import torch

    from export.completion import torch_symbols
    from export.exporters.composed import composed
    from export.open_layers import open_program
    from export.program import load_exported, quiet

    program = load_exported(source.program_file)
    with quiet(), open_program(program):
        program = composed(program, powers_too=products)
    weights_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    with quiet(), open_program(program), _origin_noted(program):
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=[spec.name for spec in source.signature.inputs],
            output_names=list(source.signature.output_names),
            verbose=False,
        )
    assert exported is not None
    _yield_names(exported.model, {spec.name for spec in (*source.signature.inputs, *source.signature.outputs)})
    exported.save(str(path), external_data=weights_bytes > _ONE_FILE_BYTES)
    model = onnx.load(str(path), load_external_data=False)
    _name_dimensions(model, torch_symbols(program, source.signature))
    _forget_paths(model)
    onnx.save(model, str(path))
    return {"form": "ONNX, dynamo exporter", **_checked(path)}


@contextmanager
def _origin_noted(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Where the exporter names the node that it cannot translate, add the source lines that the node came from."""
    try:
        yield
    except Exception as error:
        if (named := re.search(r"Error when translating node %(\w+) :", str(error))) is not None:
            for node in lowered(program).graph.nodes:
                if node.name == named.group(1):
                    error.add_note(node.meta.get("stack_trace") or "")
        raise


def export_trace(source: BuildInput, path: Path) -> dict[str, str]:
    """Trace the module on its example and export that, with the signature's names and dynamic dimensions."""
    from export.flat import FlatModule
    from export.program import casts_in_view

    with casts_in_view():
        _export_older(FlatModule(source.module(), source.signature).eval(), _example(source), source.signature, path)
    return {"form": "ONNX, TorchScript exporter", **_checked(path)}


def export_script(source: BuildInput, path: Path) -> dict[str, str]:
    """Export the module as TorchScript compiles it: branches and loops on data become ONNX's ``If`` and ``Loop``."""
    import torch

    from export.arguments import Arguments
    from export.backends.torchscript import scripted

    module, example = source.module().eval(), _example(source)
    arguments = Arguments.of(module, source.signature.inputs, source.signature.constants)
    if (numbers := arguments.numbers) is None:
        raise UserError("a scripted ONNX file takes tensors alone, no nested ones and no constants")
    positional, keywords = arguments.bind(example)
    with torch.no_grad():
        result = module(*[tensor.clone() for tensor in positional], **{k: v.clone() for k, v in keywords.items()})
    own = _in_own_order(source.signature, numbers, result)
    _export_older(scripted(module), (*positional, keywords) if keywords else tuple(positional), own, path)
    return {"form": "ONNX, TorchScript exporter, scripted", **_checked(path)}


def _example(source: BuildInput) -> tuple[Any, ...]:
    example = source.signature.example(source.signature.example_sizes(), source.seed)
    return tuple(to_torch(array) for array in example.values())


def _in_own_order(signature: Signature, numbers: Sequence[int], result: Any) -> Signature:
    """The signature in the module's own order of parameters and results, which its scripted graph keeps."""
    from export.flat import has_names, name_outputs

    names = tuple(name_outputs(result, ())) if has_names(result) else signature.output_names
    outputs = {spec.name: spec for spec in signature.outputs}
    return replace(
        signature,
        inputs=tuple(signature.inputs[number] for number in numbers),
        outputs=tuple(outputs[name] for name in names),
        output_names=names,
    )


def _export_older(module: Any, arguments: tuple[Any, ...], signature: Signature, path: Path) -> None:
    """The names of ``signature`` are laid on the graph by order, which is the graph's own."""
    import onnx
    import torch

    from export.program import quiet

    axes = {
        spec.name: {index: dim for index, dim in enumerate(spec.shape) if isinstance(dim, str) and dim.isidentifier()}
        for spec in (*signature.inputs, *signature.outputs)
    }
    with torch.no_grad(), quiet():
        torch.onnx.export(
            module,
            arguments,
            str(path),
            dynamo=False,
            input_names=[spec.name for spec in signature.inputs],
            output_names=list(signature.output_names),
            dynamic_axes={name: dims for name, dims in axes.items() if dims},
            opset_version=_LEGACY_OPSET,
        )
    model = onnx.load(str(path), load_external_data=False)
    _declare_outputs(model, signature)
    onnx.save(model, str(path))


def _declare_outputs(model: Any, signature: Signature) -> None:
    """The outputs' shapes as the signature has them: the older exporter guesses some from the example."""
    for value, spec in zip(model.graph.output, signature.outputs, strict=True):
        shape = value.type.tensor_type.shape
        shape.Clear()
        for index, size in enumerate(spec.shape):
            if isinstance(size, int):
                shape.dim.add(dim_value=size)
            else:
                shape.dim.add(dim_param=size if size.isidentifier() else f"{spec.name}_{index}")


def _checked(path: Path) -> dict[str, str]:
    """Facts of a file that passes ONNX's checker."""
    import onnx

    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path), load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    return {
        "opset": str(opset),
        "ir_version": str(model.ir_version),
        "nodes": str(len(model.graph.node)),
        "checker": "onnx.checker passed, with full shape inference",
    }


def lowered(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A traced program lowered as the exporter does it, so that its nodes bear the names of the file's values.

    The exporter's own lowering is private to PyTorch; where it is not found as known here, the public one is used,
    which agrees on fewer names.
    """
    from export.exporters.composed import composed
    from export.open_layers import open_program

    with open_program(exported):
        exported = composed(exported)
    try:
        from torch.onnx._internal.exporter._fx_passes import decompose_with_registry
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        with open_program(exported):
            public: torch.export.ExportedProgram = exported.run_decompositions()
        return public
    import logging

    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    lower: Callable[..., torch.export.ExportedProgram] = decompose_with_registry
    with open_program(exported):
        return lower(exported, ONNXRegistry.from_torchlib())


def _yield_names(model: Any, taken: set[str]) -> None:
    """Rename inner values that bear the name of an input or output: the exporter lets both stand, ONNX does not."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name in taken and not value.is_graph_output():
                value.name = f"{value.name}__inner"


def _name_dimensions(model: Any, symbols: Mapping[str, str]) -> None:
    """Spell the exporter's symbols (``s77``) as the signature does (``batch``), everywhere in the graph."""
    graph = model.graph
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            spelled = from_torch(dimension.dim_param, symbols) if dimension.dim_param else UNKNOWN
            if spelled != UNKNOWN:
                dimension.dim_param = spelled


def _forget_paths(model: Any) -> None:
    """Make the source paths in the nodes' stack traces relative: the build machine stays private.

    The whole traces remain in ``program/``, for locating a fault.
    """
    site_packages = re.escape(sysconfig.get_paths()["purelib"])
    for node in model.graph.node:
        for entry in node.metadata_props:
            entry.value = re.sub(rf'"{site_packages}/', '"', entry.value)
            entry.value = re.sub(r'"/(?:[^"/]+/)*([^"/]+)"', r'"\1"', entry.value)
