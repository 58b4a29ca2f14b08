"""The roads to a traced program: ``torch.export`` as it is; strict; with 1 a size like others; with checks left to the
call; with derived sizes.

The first is kept as it comes, if its guards let every size pass. ``torch.export`` refuses a size that it cannot prove
for the whole range, though it may hold for all of it (sizes halved, rounded up and resized back): a later road leaves
the proof out. What it made is kept only if it takes every size that was tried, with the module's own shapes, and
answers as the module does.
"""

from __future__ import annotations

import copy
import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from export.arrays import to_torch
from export.errors import TorchstoneError
from export.open_layers import open_layers
from export.roads import Kept, NoRoadError, Road, first_that_works
from export.signature import Signature, SizeRange
from export.sizes import Sizes
from export.trial import Trial

PLAIN, DERIVED = "torch.export", "torch.export with derived sizes"
_NEIGHBOURS_COUNT = 33
"""Sizes in a row that each dimension is tried at: what holds for multiples of 32 alone is seen."""
_TOGETHER_COUNT = 32
"""Sizes of all dimensions at once that are drawn from their ranges."""
_ENOUGH_S = 15.0


class SizeNotTakenError(TorchstoneError):
    """A program was made, but raises at a size that the module takes."""

    def __init__(self, program: ExportedProgram, sizes: Sizes, reason: object) -> None:
        super().__init__(f"the program does not take {_in_words(sizes)}: {reason}")
        self.program = program


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What is to be traced."""

    flat: nn.Module
    """The module behind flat tensors, in eval mode, on the CPU."""
    signature: Signature
    seed: int
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
        program = _read_back(exported)
        _ask_guards(program, capture)
        _sweep(program, capture)
        module = program.module()
        trial.check(lambda tensors: module(*tensors))

    def plain() -> ExportedProgram:
        exported = capture.export(example, dims)
        _ask_guards(exported, capture)
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


def _ask_guards(exported: ExportedProgram, capture: Capture) -> None:
    """Ask the program's guards about many sizes, without computing.

    Raises:
        SizeNotTakenError: they refuse one that the module takes, as they do where a size of 1 was taken for special.
    """
    guards = getattr(exported.module(), "_guards_fn", None)
    if guards is None:
        return
    for sizes in _many(capture.signature, capture.seed):
        try:
            guards(*_hollow(capture.signature, sizes))
        except AssertionError as error:
            try:
                with torch.no_grad():
                    capture.flat(*map(to_torch, capture.signature.example(sizes, capture.seed).values()))
            except Exception:  # noqa: BLE001, S112 - the module is the user's: it refuses that size, too
                continue
            raise SizeNotTakenError(exported, sizes, error) from None


def _read_back(exported: ExportedProgram) -> ExportedProgram:
    """The program as it comes out of its file, in which a size that was open may be fixed."""
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    return torch.export.load(file)


def _hollow(signature: Signature, sizes: Sizes) -> list[torch.Tensor]:
    """Tensors of the inputs' shapes and dtypes, without values."""
    return [
        torch.empty(shape, dtype=getattr(torch, spec.dtype), device="meta") for spec, shape in signature.shapes(sizes)
    ]


def _in_words(sizes: Sizes) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def _sweep(exported: ExportedProgram, capture: Capture) -> None:
    """Run program and module without computing (on PyTorch's device ``meta``) at many sizes, and compare their shapes.

    A module that cannot be run so, or that itself refuses a size, is left to the trial.

    Raises:
        SizeNotTakenError: the program does not take a size that the module takes.
        RuntimeError: it answers in other shapes.
    """
    from torch.export.passes import move_to_device_pass

    program = move_to_device_pass(copy.deepcopy(exported), "meta").module()
    module = copy.deepcopy(capture.flat).to("meta")
    deadline = time.monotonic() + _ENOUGH_S
    for sizes in _many(capture.signature, capture.seed):
        if time.monotonic() > deadline:
            return
        inputs = _hollow(capture.signature, sizes)
        try:
            with torch.no_grad():
                wanted = [tuple(output.shape) for output in module(*inputs)]
        except Exception:  # noqa: BLE001, S112 - the module is the user's, and not every operator runs on meta
            continue
        try:
            with torch.no_grad():
                shapes = [tuple(output.shape) for output in program(*inputs)]
        except Exception as error:  # noqa: BLE001 - any refusal is one; the words are kept
            raise SizeNotTakenError(exported, sizes, str(error).splitlines()[0]) from None
        if shapes != wanted:
            raise RuntimeError(
                f"the program's outputs have shapes {shapes} with {_in_words(sizes)}, the model's {wanted}"
            )


def _many(signature: Signature, seed: int) -> Iterator[dict[str, int]]:
    """Each dimension at sizes in a row from its smallest, and at its largest; then all together at random."""
    example = signature.example_sizes()
    for name, bounds in signature.ranges.items():
        row = islice(range(bounds.min, bounds.max + 1, bounds.multiple), _NEIGHBOURS_COUNT)
        yield from (example | {name: size} for size in (*row, bounds.max))
    random = np.random.default_rng(seed)
    for _ in range(_TOGETHER_COUNT):
        drawn = {name: random.integers(span.min, span.max, endpoint=True) for name, span in signature.ranges.items()}
        yield {name: signature.ranges[name].fit(int(size)) for name, size in drawn.items()}
