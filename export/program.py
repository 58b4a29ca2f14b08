"""Capture: the user's module becomes a Program, a traced graph that takes and returns flat named tensors.

The Program is what every source-free artifact is made from. It is saved with ``torch.export``, and read back after its
hash verified.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.arrays import dtype_name, to_torch
from export.completion import points, refine
from export.device import HOST, Device
from export.errors import UserError
from export.flat import FlatModule
from export.signature import Signature, SizeRange


@dataclass(frozen=True, kw_only=True)
class Program:
    """A traced model: ``exported`` takes and returns the tensors of ``signature``, in its order."""

    exported: torch.export.ExportedProgram
    signature: Signature


def capture(module: nn.Module, signature: Signature, seed: int) -> Program:
    """Trace a CPU copy of ``module`` in eval mode; ``signature`` is complete.

    Raises:
        UserError: a declared dynamic dimension that the model or the tracer fixes, named; or code that cannot be
            traced, with PyTorch's own words.
    """
    flat = FlatModule(copy.deepcopy(module).cpu().eval(), signature)
    tensors = tuple(to_torch(array) for array in signature.example(signature.example_sizes(), seed).values())
    dims = {name: _dim(name, bounds) for name, bounds in signature.ranges.items()}
    shapes = tuple(
        {i: dims[dim] for i, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in signature.inputs
    )
    try:
        with torch.no_grad(), quiet():
            exported = torch.export.export(flat, tensors, dynamic_shapes={"tensors": shapes})
    except Exception as error:
        raise UserError(_explain(error, signature)) from error
    return Program(exported=exported, signature=refine(signature, exported, points(module, signature, seed)))


def _dim(name: str, bounds: SizeRange) -> Any:
    """PyTorch's dynamic dimension: one of a multiple is derived from that of the quotient."""
    if bounds.multiple == 1:
        return torch.export.Dim(name, min=bounds.min, max=bounds.max)
    quotient = torch.export.Dim(
        f"{name}_{bounds.multiple}th", min=bounds.min // bounds.multiple, max=bounds.max // bounds.multiple
    )
    return bounds.multiple * quotient


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


def _explain(error: Exception, signature: Signature) -> str:
    """PyTorch's constraint violation in the words of the signature."""
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
    return f"the model cannot be traced by torch.export: {type(error).__name__}: {text}"
