"""Capture: the user's module becomes a Program, a traced graph that takes and returns flat named tensors.

The Program is what every source-free artifact is made from. It is saved with ``torch.export``, and read back after its
hash verified.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.arrays import dtype_name, to_torch
from export.device import HOST, Device
from export.errors import UserError
from export.explanations import explain
from export.signature import Signature, Sizes, TensorSpec


@dataclass(frozen=True, kw_only=True)
class Program:
    """A traced model: ``exported`` takes and returns the tensors of ``signature``, in its order."""

    exported: torch.export.ExportedProgram
    signature: Signature


class FlatModule(nn.Module):
    """The user's module behind flat positional tensors: inputs in the signature's order, outputs as a flat tuple."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.module = module
        self.positional_count = sum(not spec.keyword for spec in signature.inputs)
        self.keywords = tuple(spec.name for spec in signature.inputs if spec.keyword)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors shaped as the signature's inputs, to tensors shaped as its outputs."""
        arguments = dict(zip(self.keywords, tensors[self.positional_count :], strict=True))
        return tuple(flatten(self.module(*tensors[: self.positional_count], **arguments)).values())


def flatten(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a nested result by name: ``{"logits": ..., "boxes.0": ...}``; a lone tensor is ``output``.

    Tuples, lists, mappings and dataclasses are walked in their own order; ``None`` is left out.

    Raises:
        UserError: a value that is no tensor and no container of tensors.
    """
    if value is None:
        return {}
    if isinstance(value, torch.Tensor):
        return {prefix or "output": value}
    if isinstance(value, Mapping):
        items: Iterator[tuple[Any, Any]] | Any = value.items()
    elif dataclasses.is_dataclass(value):
        items = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif isinstance(value, tuple | list):
        items = ((f"output_{index}" if not prefix else str(index), item) for index, item in enumerate(value))
    else:
        raise UserError(
            f"a model's result must be tensors, got {type(value).__name__} at {prefix or 'the top'}: "
            "leave it out in forward()"
        )
    return {
        name: tensor
        for key, item in items
        for name, tensor in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def refill(template: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """The inverse of ``flatten``: a result of the template's structure, its tensors replaced one by one."""
    if template is None:
        return None
    if isinstance(template, torch.Tensor):
        return next(tensors)
    if isinstance(template, Mapping):
        return type(template)(**{key: refill(value, tensors) for key, value in template.items()})
    if dataclasses.is_dataclass(template) and not isinstance(template, type):
        names = [field.name for field in dataclasses.fields(template)]
        return dataclasses.replace(template, **{name: refill(getattr(template, name), tensors) for name in names})
    items = [refill(value, tensors) for value in template]
    return type(template)(*items) if hasattr(template, "_fields") else type(template)(items)


def complete(module: nn.Module, signature: Signature, seed: int) -> Signature:
    """The signature with its outputs, found by running an eval copy of the module at two sets of sizes.

    An output dimension that moves as one symbol does takes its name; one that moves otherwise is ``?``.

    Raises:
        UserError: the model does not accept its own example, or its result does not fit ``output_names``.
    """
    flat = FlatModule(copy.deepcopy(module).cpu().eval(), signature)
    first = signature.example_sizes()
    second = {name: size + 1 if size + 1 in signature.ranges[name] else size for name, size in first.items()}
    runs = [_run_example(flat, signature, sizes, seed) for sizes in (first, second)]
    names = signature.output_names or tuple(re.sub(r"[^A-Za-z0-9_.]", "_", name) for name in runs[0])
    if len(names) != len(runs[0]):
        raise UserError(f"output_names must name the {len(runs[0])} tensors {list(runs[0])}, got {list(names)}")
    outputs = []
    for name, tensor, other in zip(names, runs[0].values(), runs[1].values(), strict=True):
        shape = tuple(_symbol(a, b, first, second) for a, b in zip(tensor.shape, other.shape, strict=True))
        outputs.append(TensorSpec(name, dtype_name(tensor), shape))
    return signature.with_outputs(tuple(outputs))


def capture(module: nn.Module, signature: Signature, seed: int) -> Program:
    """Trace a CPU copy of ``module`` in eval mode; ``signature`` is complete.

    Raises:
        UserError: a declared dynamic dimension that the model or the tracer fixes, named; or code that cannot be
            traced, with PyTorch's own words.
    """
    flat = FlatModule(copy.deepcopy(module).cpu().eval(), signature)
    tensors = tuple(to_torch(array) for array in signature.example(signature.example_sizes(), seed).values())
    dims = {name: torch.export.Dim(name, min=bounds.min, max=bounds.max) for name, bounds in signature.ranges.items()}
    shapes = tuple(
        {i: dims[dim] for i, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in signature.inputs
    )
    try:
        with torch.no_grad(), quiet():
            exported = torch.export.export(flat, tensors, dynamic_shapes={"tensors": shapes})
    except Exception as error:
        raise UserError(_explain(error, signature)) from error
    _refuse_frozen(exported, signature)
    return Program(exported=exported, signature=signature)


def precision(module: nn.Module, signature: Signature) -> str:
    """The floating dtypes that a module computes in: its weights', its inputs' where it has none."""
    dtypes = {dtype_name(tensor) for tensor in module.state_dict().values() if tensor.is_floating_point()}
    dtypes = dtypes or {spec.dtype for spec in signature.inputs if spec.dtype.startswith("float")}
    return "+".join(sorted(dtypes)) or "none"


def load_exported(path: Path) -> torch.export.ExportedProgram:
    """Read a file whose hash the caller has verified; none of its code runs, whoever made it (export/archive.py).

    Raises:
        RecordError: the file could run code, or is not a program as torch saves it.
    """
    from export.archive import read_program  # with SymPy, which takes a second of every process that imports it

    data = read_program(path)
    with quiet():
        return torch.export.load(data)


def on_device(exported: torch.export.ExportedProgram, where: Device) -> torch.export.ExportedProgram:
    """The same program with its weights and constants there."""
    if where.torch_name == HOST.torch_name:
        return exported
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(exported, where.torch_name)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what PyTorch says to its own developers: deprecations inside its exporters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _run_example(flat: FlatModule, signature: Signature, sizes: Sizes, seed: int) -> dict[str, torch.Tensor]:
    """The named outputs of one run on the example of ``sizes``."""
    tensors = [to_torch(array) for array in signature.example(sizes, seed).values()]
    positional, keyword = tensors[: flat.positional_count], tensors[flat.positional_count :]
    try:
        with torch.no_grad():
            return flatten(flat.module(*positional, **dict(zip(flat.keywords, keyword, strict=True))))
    except UserError:
        raise
    except Exception as error:
        shapes = ", ".join(
            f"{spec.name}: {spec.dtype}{list(t.shape)}" for spec, t in zip(signature.inputs, tensors, strict=True)
        )
        raise UserError(
            f"the model does not accept its own example input ({shapes}):\n  {type(error).__name__}: {error}\n"
            "Change the recipe's signature, or the model."
        ) from error


def _symbol(size: int, other_size: int, first: Sizes, second: Sizes) -> int | str:
    """The name of the symbol that is ``size`` in the first run and ``other_size`` in the second."""
    if size == other_size:
        return size
    return next((name for name in first if (first[name], second[name]) == (size, other_size)), "?")


def _refuse_frozen(exported: torch.export.ExportedProgram, signature: Signature) -> None:
    for spec, node in zip(signature.outputs, exported.graph.output_node().args[0], strict=True):
        for index, (dim, size) in enumerate(zip(spec.shape, node.meta["val"].shape, strict=True)):
            if isinstance(dim, str) and isinstance(size, int):
                raise UserError(f"the tracer froze {dim!r} to {size} in dimension {index} of the output {spec.name!r}")


def symbol_names(exported: torch.export.ExportedProgram, signature: Signature) -> dict[str, str]:
    """PyTorch's symbol of every declared dynamic dimension, to the signature's name of it."""
    user_inputs = [node for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs]
    return {
        str(size): dim
        for node, spec in zip(user_inputs, signature.inputs, strict=True)
        for size, dim in zip(node.meta["val"].shape, spec.shape, strict=True)
        if isinstance(dim, str)
    }


def rename(expression: str, symbols: Mapping[str, str]) -> str:
    """An expression over PyTorch's symbols, over the signature's names instead."""
    return re.sub(r"\b\w+\b", lambda match: symbols.get(match.group(), match.group()), expression)


def _explain(error: Exception, signature: Signature) -> str:
    """PyTorch's constraint violation in the words of the signature; another refusal in the user's terms."""
    text = str(error).split("\nThe error above occurred")[0].strip()
    for name in signature.ranges:
        match = re.search(
            rf"\b{re.escape(name)}\b[^\n]*specialized[^\n]*\((\d+)\)|^\s*{re.escape(name)} = (\d+)", text, re.MULTILINE
        )
        if match:
            size = match.group(1) or match.group(2)
            return (
                f"the dynamic dimension {name!r} is declared, but torch.export fixes it to {size}: make it static in "
                "the signature, narrow its range, or change the model (TORCH_LOGS=+dynamic tells where)"
            )
    explanation = explain("".join(traceback.format_exception(error)))
    return "the model cannot be traced by torch.export: " + (
        explanation.sentence if explanation else f"{type(error).__name__}: {text}"
    )
