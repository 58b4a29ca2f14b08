"""Capture: the user's module becomes a Program, a traced graph that takes and returns flat named tensors.

The Program is what every source-free artifact is made from. It is saved with ``torch.export``, and read back after its
hash verified.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.arrays import dtype_name
from export.capture_failure import explain
from export.capture_roads import Capture, captured
from export.completion import points, refine
from export.device import HOST, Device
from export.errors import UserError
from export.flat import FlatModule
from export.roads import NoRoadError
from export.signature import Signature


@dataclass(frozen=True, kw_only=True)
class Program:
    """A traced model: ``exported`` takes and returns the tensors of ``signature``, in its order."""

    exported: torch.export.ExportedProgram
    signature: Signature
    facts: dict[str, str]
    """The road that was taken, and what those before it said; see export/roads.py."""


def capture(module: nn.Module, signature: Signature, seed: int) -> Program:
    """Trace a CPU copy of ``module`` in eval mode; ``signature`` is complete.

    Raises:
        UserError: a declared dynamic dimension that the model or the tracer fixes, named; or code that cannot be
            traced, with PyTorch's own words.
    """
    flat = FlatModule(copy.deepcopy(module).cpu().eval(), signature)
    answered = points(module, signature, seed)
    accept = partial(refine, signature, answered=answered)
    try:
        with quiet():
            kept = captured(Capture(flat=flat, signature=signature, seed=seed, accept=accept))
    except NoRoadError as none:
        raise UserError(explain(none, signature)) from none.refusals[0].error
    return Program(exported=kept.built, signature=refine(signature, kept.built, answered), facts=kept.facts)


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


def casts_in_view() -> AbstractContextManager[Any]:
    """Autocast inside a model casts its weights at every use: a trace would keep those that it has cast before."""
    return torch.autocast("cpu", enabled=False, cache_enabled=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what PyTorch says to its own developers: deprecations inside its exporters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
