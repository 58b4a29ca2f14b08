"""PyTorch's two ONNX exporters: dynamo's, from the traced program, and the older one, from a trace of the module."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.arrays import to_torch

if TYPE_CHECKING:
    import torch

    from export.backend import BuildInput

_LEGACY_OPSET = 17
"""The newest in which the older exporter knows layer normalisation as one operator, and which all runtimes load."""
_ONE_FILE_BYTES = 2 * 1024**3 - 64 * 1024**2
"""Protobuf ends at 2 GiB; what the graph needs besides its weights stays far below the margin."""


def export_program(source: BuildInput, path: Path) -> dict[str, str]:
    """Export the traced program with the signature's names, check the file with ONNX's own checker; returns facts."""
    import onnx
    import torch

    from export.program import load_exported, quiet, symbol_names

    program = load_exported(source.program_file)
    weights_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    with quiet(), _origin_noted(program):
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
    _name_dimensions(model, symbol_names(program, source.signature))
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
    import torch

    from export.program import FlatModule, quiet

    signature = source.signature
    flat = FlatModule(source.module(), signature).eval()
    example = signature.example(signature.example_sizes(), source.seed)
    axes = {
        spec.name: {index: dim for index, dim in enumerate(spec.shape) if isinstance(dim, str) and dim != "?"}
        for spec in (*signature.inputs, *signature.outputs)
    }
    with torch.no_grad(), quiet():
        torch.onnx.export(
            flat,
            tuple(to_torch(array) for array in example.values()),
            str(path),
            dynamo=False,
            input_names=[spec.name for spec in signature.inputs],
            output_names=list(signature.output_names),
            dynamic_axes={name: dims for name, dims in axes.items() if dims},
            opset_version=_LEGACY_OPSET,
        )
    return {"form": "ONNX, TorchScript exporter", **_checked(path)}


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
    try:
        from torch.onnx._internal.exporter._fx_passes import decompose_with_registry
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        public: torch.export.ExportedProgram = exported.run_decompositions()
        return public
    import logging

    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    lower: Callable[..., torch.export.ExportedProgram] = decompose_with_registry
    return lower(exported, ONNXRegistry.from_torchlib())


def _yield_names(model: Any, taken: set[str]) -> None:
    """Rename inner values that bear the name of an input or output: the exporter lets both stand, ONNX does not."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name in taken and not value.is_graph_output():
                value.name = f"{value.name}__inner"


def _name_dimensions(model: Any, symbols: Mapping[str, str]) -> None:
    """Spell the exporter's symbols (``s77``) as the signature does (``batch``), everywhere in the graph."""
    from export.program import rename

    graph = model.graph
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = rename(dimension.dim_param, symbols)


def _forget_paths(model: Any) -> None:
    """Make the source paths in the nodes' stack traces relative: the build machine stays private.

    The whole traces remain in ``program/``, for locating a fault.
    """
    site_packages = re.escape(sysconfig.get_paths()["purelib"])
    for node in model.graph.node:
        for entry in node.metadata_props:
            entry.value = re.sub(rf'"{site_packages}/', '"', entry.value)
            entry.value = re.sub(r'"/(?:[^"/]+/)*([^"/]+)"', r'"\1"', entry.value)
