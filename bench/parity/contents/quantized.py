"""The weights of an int8 file beside the checkpoint's: each lies within half a step of its channel.

The recipe's metric may not see that one channel is scaled wrongly, nor the ratio of signal to noise; the file shows it.
Every quantised tensor takes a weight of its own, by its name or by its values. Under a weight's name, or near one that
no other tensor takes, what differs fails; what is like no weight is not judged, and the verdict is then inconclusive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.parity.cases import Values
from bench.parity.check import Check
from bench.parity.contents.folding import folded_constants, folded_norms, used_weights
from bench.parity.contents.opened import Opened
from bench.parity.contents.weights import orders
from export.arrays import is_floating, to_numpy
from export.contents import Quantized

_STEPS = 0.51
"""Half a step, and the roundings of the scale."""
_NEAR = 0.5
"""What is closer than this, relative to its norm, is the weight itself, scaled or shifted wrongly; so is what is right
in that share of its values."""
_PROBED = 64
"""Values that are looked at first: they tell most of what is another weight."""
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class _Known:
    """A value that the file may hold: a weight, or what exporters make of it, under the weight's name."""

    name: str
    value: Values


@dataclass(frozen=True)
class _Compared:
    """What became of the quantised tensors."""

    off: dict[str, float] = field(default_factory=dict)
    """By the name of a weight: how many steps what is stored in its place is off."""
    unknown: list[str] = field(default_factory=list)
    """Tensors that are like no weight that has no other tensor."""


def quantized_checks(opened: Opened, checkpoint: Path) -> Iterator[Check]:
    """The findings; none of files that show no steps. ``checkpoint`` holds the weights, as safetensors."""
    contents = opened.contents
    if contents is None or opened.traced is None or not (contents.quantized or contents.unequal):
        return
    if contents.unequal:
        message = f"{contents.unequal[0]} is dequantised by another scale or zero point than it was quantised by"
        yield Check(level="fidelity", subject=contents.unequal[0], status="fail", message=message)
    compared = _compare([each for each in contents.quantized if each.values.size], _known(opened, checkpoint))
    for name, steps in compared.off.items():
        message = f"{name} is up to {steps:.3g} steps of its channel from the checkpoint's, half a step is rounding"
        yield Check(level="fidelity", subject=name, status="fail", message=message, places=(name,), value=steps)
    if compared.unknown:
        shown = ", ".join(compared.unknown[:_SHOWN])
        message = f"{len(compared.unknown)} quantised tensors are like no weight of the checkpoint, first {shown}"
        yield Check(level="fidelity", subject=compared.unknown[0], status="inconclusive", message=message)
    if not compared.off and not compared.unknown:
        message = f"{len(contents.quantized)} quantised weights and biases, each within half a step of the checkpoint's"
        yield Check(level="fidelity", subject="steps", status="pass", message=message)


def _known(opened: Opened, checkpoint: Path) -> list[_Known]:
    """The weights that the program uses, its constants, and what exporters compute ahead from them."""
    from safetensors.numpy import load_file

    exported, weights = opened.traced, load_file(checkpoint)
    assert exported is not None
    constants = {name: to_numpy(value) for name, value in exported.constants.items() if hasattr(value, "detach")}
    known = [_Known(name, weights[name]) for name in sorted(used_weights(exported) & weights.keys())]
    known += [_Known(name, value) for name, value in constants.items() if name.removeprefix("module.") not in weights]
    known += [_Known(fold.into or fold.uses[0], fold.value) for fold in folded_norms(exported, weights)]
    known += [_Known(fold.uses[0], fold.value) for fold in folded_constants(exported)]
    return [entry for entry in known if is_floating(entry.value.dtype) and entry.value.size]


def _compare(stored: Sequence[Quantized], known: Sequence[_Known]) -> _Compared:
    """Find each tensor's own weight among those of its size: by name, then by values, each once."""
    of_size: dict[int, list[_Known]] = defaultdict(list)
    for entry in known:
        of_size[entry.value.size].append(entry)
    names = {entry.name for entry in known}
    compared, taken, left = _Compared(), set[_Known](), list[Quantized]()
    for each in sorted(stored, key=lambda each: _own_name(each) not in names):
        alike = of_size[each.values.size]
        own = [entry for entry in alike if entry.name == _own_name(each)]
        held = _held(each, own or [entry for entry in alike if entry not in taken])
        if held is None:
            left.append(each)
        else:
            taken.add(held)
    claimed = {entry.name for entry in taken}
    for each in left:
        alike = of_size[each.values.size]
        free = [entry for entry in alike if entry.name not in claimed]
        if not free and _own_name(each) not in names and _held(each, alike):
            continue  # a second copy of a weight that is used twice, and no other weight is wanting
        name, steps = _altered(each, free)
        if name:
            compared.off[name] = steps
        else:
            compared.unknown.append(each.name)
    return compared


def _held(stored: Quantized, known: Sequence[_Known]) -> _Known | None:
    """The value that the tensor holds to within half a step, the nearest of several; None if it is none of them."""
    steps = [_most_steps(stored, entry.value) for entry in known]
    return known[int(np.argmin(steps))] if steps and min(steps) <= _STEPS else None


def _own_name(stored: Quantized) -> str:
    """The weight's, where the tool that quantised it kept that."""
    return stored.name.removesuffix("_quantized").removeprefix("module.")


def _altered(stored: Quantized, free: Sequence[_Known]) -> tuple[str, float]:
    """The weight in whose place the tensor stands, and how many steps it is off; no name where that is not known."""
    candidates = []
    for entry in free:
        for order in _layouts(stored, entry.value):
            apart = _distances(stored, entry.value, order)
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = apart / stored.steps.ravel()
            relative = float(np.linalg.norm(apart) / (np.linalg.norm(entry.value) or 1.0))
            is_it = entry.name == _own_name(stored) or relative < _NEAR or float(np.median(steps)) <= _STEPS
            if is_it and not np.isnan(steps).any():
                candidates.append((relative, entry.name, float(steps.max())))
    return min(candidates)[1:] if candidates else ("", 0.0)


def _most_steps(stored: Quantized, value: Values) -> float:
    """How many steps the worst element is off, in the order of dimensions that fits best; infinite if none may."""
    least = float("inf")
    with np.errstate(divide="ignore", invalid="ignore"):
        first, steps = stored.steps.flat[:_PROBED], stored.steps.ravel()
        for order in _layouts(stored, value):
            if (_distances(stored, value, order, _PROBED) / first <= _STEPS).all():
                least = min(least, float(np.max(_distances(stored, value, order) / steps)))
    return least


def _distances(stored: Quantized, value: Values, order: tuple[int, ...], most: int | None = None) -> Values:
    """How far the first ``most`` elements are off, as they lie in the file."""
    distances: Values = np.abs(value.transpose(order).flat[:most].astype(np.float64) - stored.values.flat[:most])
    return distances


def _layouts(stored: Quantized, value: Values) -> Iterator[tuple[int, ...]]:
    """The orders of dimensions in which the tensor may hold the value: its own, reshaped, and those of its shape."""
    for order in orders(value):
        turned = tuple(value.shape[dim] for dim in order)
        if order == tuple(range(value.ndim)) or _without_ones(turned) == _without_ones(stored.values.shape):
            yield order


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
