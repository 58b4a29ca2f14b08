"""The roads to a traced program: ``torch.export`` as it is; strict; with 1 a size like others; with checks left to the
call; with derived sizes.

The first is kept as it comes, if its guards let every size pass. ``torch.export`` refuses a size that it cannot prove
for the whole range, though it may hold for all of it (sizes halved, rounded up and resized back): a later road leaves
the proof out. What it made is kept only if it takes every size that was tried, with the module's own shapes, and
answers as the module does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from export.arrays import to_torch
from export.every_size import Sized, SizeNotTakenError, ask_guards, read_back, sweep
from export.open_layers import open_layers
from export.roads import Kept, NoRoadError, Road, first_that_works
from export.signature import Signature, SizeRange
from export.sizes import Sizes
from export.trial import Trial

PLAIN, DERIVED = "torch.export", "torch.export with derived sizes"


@dataclass(frozen=True, kw_only=True)
class Capture(Sized):
    """What is to be traced."""

    accept: Callable[[ExportedProgram], object]
    """Raises for a program that breaks the signature."""

    def export(
        self, sizes: Sizes, dims: Mapping[str, object], *, oblivious: bool = False, **options: Any
    ) -> ExportedProgram:
        """Trace the example of ``sizes``, each symbol a dimension as ``dims`` has it.

        ``oblivious`` is how PyTorch's own ONNX exporter traces: what it does with a size of 1 it does with any.
        """
        tensors = tuple(to_torch(array) for array in self.signature.example(sizes, self.seed).values())
        shapes = tuple(
            {index: dims[dim] for index, dim in enumerate(spec.shape) if isinstance(dim, str)}
            for spec in self.signature.inputs
        )
        of_sizes = torch.fx.experimental._config.patch(backed_size_oblivious=oblivious)  # type: ignore[attr-defined]
        with torch.no_grad(), open_layers(self.flat), of_sizes:
            exported = torch.export.export(self.flat, tensors, dynamic_shapes={"tensors": shapes}, **options)
        self.accept(exported)
        return exported


def captured(capture: Capture) -> Kept[ExportedProgram]:
    """The program of the first road that works; the caller silences PyTorch's warnings.

    Where none does, that of ``torch.export`` as it is, if only its guards refuse a size: what is made from it may take
    it, and parity says of each artifact whether it does.

    Raises:
        NoRoadError: there is no such one; its first refusal is that of ``torch.export`` as it is.
    """
    try:
        return _by_roads(capture)
    except NoRoadError as none:
        plain = none.refusals[0].error
        if not isinstance(plain, SizeNotTakenError):
            raise
        return Kept(PLAIN, plain.program, none.refusals)


def _by_roads(capture: Capture) -> Kept[ExportedProgram]:
    signature = capture.signature
    example, dims = signature.example_sizes(), _declared(signature)
    trial = Trial(capture.flat, signature, capture.seed)

    def check(exported: ExportedProgram) -> None:
        program = read_back(exported)
        ask_guards(program, capture)
        sweep(program, capture)
        module = program.module()
        trial.check(lambda tensors: module(*tensors))

    def plain() -> ExportedProgram:
        exported = capture.export(example, dims)
        ask_guards(exported, capture)
        return exported

    whole = (
        Road(PLAIN, plain, trust="full"),
        Road("strict torch.export", partial(capture.export, example, dims, strict=True)),
    )
    try:
        return first_that_works(whole, check)
    except NoRoadError as none:
        refusals = none.refusals
    fixed = _fixed(str(refusals[0].error), signature)
    if not fixed:
        raise NoRoadError(refusals)
    deferred = {"prefer_deferred_runtime_asserts_over_guards": True}
    larger = _larger(signature)
    ranges = {name: signature.ranges[name] for name in fixed}
    derived = dims | {name: Dim.AUTO(min=bounds.min, max=bounds.max) for name, bounds in ranges.items()}
    later = (
        Road("torch.export oblivious to sizes of 1", partial(capture.export, example, dims, oblivious=True)),
        Road("torch.export with deferred checks", partial(capture.export, example, dims, **deferred)),
        Road("torch.export with deferred checks, larger", partial(capture.export, larger, dims, **deferred)),
        Road(DERIVED, partial(capture.export, larger, derived)),
    )
    try:
        kept = first_that_works(later, check)
    except NoRoadError as none:
        raise NoRoadError((*refusals, *none.refusals)) from none
    return Kept(kept.road, kept.built, (*refusals, *kept.refusals))


def _declared(signature: Signature) -> dict[str, Any]:
    return {name: _dim(name, bounds) for name, bounds in signature.ranges.items()}


def _dim(name: str, bounds: SizeRange) -> Any:
    """PyTorch's dynamic dimension: one of a multiple is derived from that of the quotient."""
    if bounds.multiple == 1:
        return Dim(name, min=bounds.min, max=bounds.max)
    least, most = bounds.min // bounds.multiple, bounds.max // bounds.multiple
    return bounds.multiple * Dim(f"{name}_{bounds.multiple}th", min=least, max=most)


def _fixed(message: str, signature: Signature) -> list[str]:
    """The symbols whose size ``torch.export`` cannot leave open, as its message or ours names them.

    All of them where it breaks off while it looks for one to suggest: the range that it found holds a single size.
    """
    if "Cannot create Dim with inconsistent" in message:
        return [*signature.ranges]
    return [name for name in signature.ranges if re.search(rf"\b{re.escape(name)}\b", message)]


def _larger(signature: Signature) -> dict[str, int]:
    """Sizes at which less holds by chance: larger, odd, and different, as far as the ranges let them be."""
    example = signature.example_sizes()
    return {
        name: bounds.fit(2 * example[name] + (1 + 4 * index) * bounds.multiple)
        for index, (name, bounds) in enumerate(signature.ranges.items())
    }
