"""The outputs of a signature: found by running the model at several sizes, then refined by its traced program.

Sizes are the program's own: the traced graph knows each as an expression (``(samples - 1) // 4 + 1``), which is kept
where it is what the model answered at every point that was tried. Without a trace only what is simple is guessed; any
other size is ``?``, and each call is held to the model's own.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from export.arrays import dtype_name, to_torch
from export.errors import UserError
from export.flat import FlatModule, distinct
from export.gradients import call
from export.signature import Signature, TensorSpec
from export.sizes import UNKNOWN, Sizes, from_torch, size_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_POINTS_S = 5.0
"""How long a model may be run at other sizes than the example's; at least one more size of each symbol is tried."""
_LARGE_ELEMENTS = 1 << 18
"""The largest sizes are tried where the inputs then have no more elements."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What the model answered at some sizes."""

    sizes: dict[str, int]
    outputs: dict[str, torch.Tensor]


def complete(module: nn.Module, signature: Signature, seed: int) -> Signature:
    """The signature with its outputs, found by running an eval copy of the module at several sizes.

    Raises:
        UserError: inputs or outputs that do not bind by name, or a model that does not accept its own example.
    """
    first, *others = points(module, signature, seed)
    names = distinct(first.outputs, (spec.name for spec in signature.inputs))
    outputs = []
    for called, (name, tensor) in zip(names, first.outputs.items(), strict=True):
        ranks = {point.outputs[name].dim() for point in others if name in point.outputs}
        if ranks - {tensor.dim()}:
            raise UserError(f"{name} has {sorted({tensor.dim(), *ranks})} dimensions, at different sizes: keep it one")
        shape = tuple(
            _guess([(p.sizes, p.outputs[name].shape[i]) for p in (first, *others)], i) for i in range(tensor.dim())
        )
        outputs.append(TensorSpec(called, dtype_name(tensor), shape))
    return replace(signature, outputs=tuple(outputs), output_names=tuple(spec.name for spec in outputs))


def refine(signature: Signature, exported: ExportedProgram, answered: Sequence[Point]) -> Signature:
    """The signature with the traced program's own sizes, where they are what the model answered at every point.

    Raises:
        UserError: the tracer fixed a size that moves.
    """
    symbols = torch_symbols(exported, signature)
    outputs = []
    for spec, node in zip(signature.outputs, exported.graph.output_node().args[0], strict=True):
        shape = []
        for index, (dim, size) in enumerate(zip(spec.shape, node.meta["val"].shape, strict=True)):
            known = [(point.sizes, point.outputs[spec.name].shape[index]) for point in answered]
            if isinstance(size, int) and any(other != size for _, other in known):
                raise UserError(f"the tracer froze {dim!r} to {size} in dimension {index} of the output {spec.name!r}")
            traced = size if isinstance(size, int) else from_torch(str(size), symbols)
            shape.append(traced if _holds(traced, known) else UNKNOWN)
        outputs.append(replace(spec, shape=tuple(shape)))
    return replace(signature, outputs=tuple(outputs))


def points(module: nn.Module, signature: Signature, seed: int) -> list[Point]:
    """The model's answers at the example's sizes and at others; those that it refuses are left out.

    Raises:
        UserError: it does not accept its own example.
    """
    flat = FlatModule(copy.deepcopy(module).cpu().eval(), signature)
    example = signature.example_sizes()
    answered = [Point(sizes=example, outputs=_run_example(flat, signature, example, seed))]
    started, least = time.monotonic(), len(signature.ranges)
    for number, sizes in enumerate(_other_sizes(signature)):
        if number >= least and time.monotonic() - started > _POINTS_S:
            break
        try:
            outputs = _run(flat, signature, sizes, seed)
        except Exception:  # noqa: BLE001, S112 - what a model refuses at other sizes, the parity check says by name
            continue
        answered.append(Point(sizes=sizes, outputs=outputs))
    return answered


def torch_symbols(exported: ExportedProgram, signature: Signature) -> dict[str, str]:
    """PyTorch's symbol of every declared dynamic dimension, as an expression over the signature's names.

    A dimension that is a multiple of four is traced as ``4*s0``: then ``s0`` is ``height // 4``.
    """
    user_inputs = [node for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs]
    symbols = {}
    for node, spec in zip(user_inputs, signature.inputs, strict=True):
        for size, dim in zip(node.meta["val"].shape, spec.shape, strict=True):
            if isinstance(dim, str):
                multiple = signature.ranges[dim].multiple
                factor, _, symbol = str(size).rpartition("*")
                if not factor:
                    symbols[symbol] = dim
                elif factor == str(multiple):
                    symbols[symbol] = f"{dim} // {multiple}"
    return symbols


def _other_sizes(signature: Signature) -> Iterator[dict[str, int]]:
    """Each symbol at its next sizes, then at its ends and doubled; then all at their smallest, and at their largest."""
    example = signature.example_sizes()
    ranges = signature.ranges.items()
    steps = [
        {name: bounds.fit(example[name] + step * bounds.multiple) for name, bounds in ranges} for step in (1, -1, 2)
    ]
    ends = [
        {name: bounds.min for name, bounds in ranges},
        {name: bounds.fit(2 * example[name] + 1) for name, bounds in ranges},
        {name: bounds.max for name, bounds in ranges},
    ]
    one_by_one = ({**example, name: sizes[name]} for sizes in (*steps, *ends) for name, _ in ranges)
    seen = [example]
    for sizes in itertools.chain(one_by_one, ends):
        if sizes not in seen and signature.elements(sizes) <= max(_LARGE_ELEMENTS, 8 * signature.elements(example)):
            seen.append(sizes)
            yield sizes


def _guess(known: Sequence[tuple[Sizes, int]], index: int) -> int | str:
    """The simplest size that is right at every point; ``?`` where none of a few simple ones is."""
    first_sizes, first = known[0]
    if all(size == first for _, size in known):
        return first
    names = list(first_sizes)
    pairs = itertools.combinations(names, 2)
    affine = (f"{_times(first, first_sizes[name])}{name}" for name in names if first_sizes[name])
    shifted = (f"{name} + {first - first_sizes[name]}" for name in names if first > first_sizes[name])
    less = (f"{name} - {first_sizes[name] - first}" for name in names if first < first_sizes[name])
    products = (f"{a} * {b}" for a, b in pairs)
    candidates = itertools.chain(names, shifted, less, affine, products)
    return next((text for text in candidates if _holds(text, known)), UNKNOWN)


def _times(size: int, symbol: int) -> str:
    return f"{size // symbol} * "


def _holds(dim: int | str, known: Sequence[tuple[Sizes, int]]) -> bool:
    """Whether a dimension is what the model answered at every point."""
    try:
        return all(size_of(dim, sizes) in (None, size) for sizes, size in known)
    except (UserError, ZeroDivisionError):
        return False


def _run(flat: FlatModule, signature: Signature, sizes: Sizes, seed: int) -> dict[str, torch.Tensor]:
    tensors = [to_torch(array) for array in signature.example(sizes, seed).values()]
    names: list[str] = []

    def answer(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = flat.named(*given)
        names[:] = named
        return tuple(named.values())

    outputs = call(answer, tensors)
    return dict(zip(names, outputs, strict=True))


def _run_example(flat: FlatModule, signature: Signature, sizes: Sizes, seed: int) -> dict[str, torch.Tensor]:
    """The named outputs of one run on the example of ``sizes``."""
    try:
        return _run(flat, signature, sizes, seed)
    except UserError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{spec.name}: {spec.dtype}{list(shape)}" for spec, shape in signature.shapes(sizes))
        raise UserError(
            f"the model does not accept its own example input ({shapes}):\n  {type(error).__name__}: {error}\n"
            "Change the recipe's signature, or the model."
        ) from error
