"""Whether a traced program takes every declared size, asked without computing, as far as that goes.

``torch.export`` writes guards that know of no size of 1, and a road that leaves proofs out (export/capture_roads.py)
makes programs that raise when called: what the module takes and the program does not is found here.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from export.arrays import to_torch
from export.errors import TorchstoneError
from export.signature import Signature
from export.sizes import Sizes

_NEIGHBOURS_COUNT = 33
"""Sizes in a row that each dimension is tried at: what holds for multiples of 32 alone is seen."""
_TOGETHER_COUNT = 32
"""Sizes of all dimensions at once that are drawn from their ranges."""
_ENOUGH_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A module, and the sizes that are declared for it."""

    flat: nn.Module
    """The module behind flat tensors, in eval mode, on the CPU."""
    signature: Signature
    seed: int


class SizeNotTakenError(TorchstoneError):
    """A program was made, but raises at a size that the module takes."""

    def __init__(self, program: ExportedProgram, sizes: Sizes, reason: object) -> None:
        super().__init__(f"the program does not take {_in_words(sizes)}: {reason}")
        self.program = program


def ask_guards(exported: ExportedProgram, model: Sized) -> None:
    """Ask the program's guards about many sizes, without computing.

    Raises:
        SizeNotTakenError: they refuse one that the module takes, as they do where a size of 1 was taken for special.
    """
    guards = getattr(exported.module(), "_guards_fn", None)
    if guards is None:
        return
    for sizes in _many(model.signature, model.seed):
        try:
            guards(*_hollow(model.signature, sizes))
        except AssertionError as error:
            try:
                with torch.no_grad():
                    model.flat(*map(to_torch, model.signature.example(sizes, model.seed).values()))
            except Exception:  # noqa: BLE001, S112 - the module is the user's: it refuses that size, too
                continue
            raise SizeNotTakenError(exported, sizes, error) from None


def read_back(exported: ExportedProgram) -> ExportedProgram:
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


def sweep(exported: ExportedProgram, model: Sized) -> None:
    """Run program and module without computing (on PyTorch's device ``meta``) at many sizes, and compare their shapes.

    A module that cannot be run so, or that itself refuses a size, is left to the trial.

    Raises:
        SizeNotTakenError: the program does not take a size that the module takes.
        RuntimeError: it answers in other shapes.
    """
    from torch.export.passes import move_to_device_pass

    program = move_to_device_pass(copy.deepcopy(exported), "meta").module()
    module = copy.deepcopy(model.flat).to("meta")
    deadline = time.monotonic() + _ENOUGH_S
    for sizes in _many(model.signature, model.seed):
        if time.monotonic() > deadline:
            return
        inputs = _hollow(model.signature, sizes)
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
