"""The weights of an int8 file beside the checkpoint's: each lies within half a step of its channel.

The recipe's metric may not see that one channel is scaled wrongly, nor the ratio of signal to noise; the file shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np

from bench.parity.cases import Values
from bench.parity.check import Check
from bench.parity.contents.folding import folded_constants, folded_norms, used_weights
from bench.parity.contents.opened import Opened
from export.arrays import is_floating
from export.contents import Quantized

_STEPS = 0.51
"""Half a step, and the roundings of the scale."""
_NEAR = 0.5
"""What is closer than this, relative to its norm, is the weight itself, scaled or shifted wrongly."""
_MOST_PERMUTED_DIMS = 4


def quantized_checks(opened: Opened, checkpoint: Path) -> Iterator[Check]:
    """The findings; none of files that show no steps. ``checkpoint`` holds the weights, as safetensors."""
    contents, exported = opened.contents, opened.traced
    if contents is None or exported is None or not (contents.quantized or contents.unequal):
        return
    if contents.unequal:
        message = f"{contents.unequal[0]} is dequantised by another scale or zero point than it was quantised by"
        yield Check(level="fidelity", subject=contents.unequal[0], status="fail", message=message)
    from safetensors.numpy import load_file

    weights = load_file(checkpoint)
    wanted = [(name, weights[name]) for name in sorted(used_weights(exported) & weights.keys())]
    wanted += [(fold.into or fold.uses[0], fold.value) for fold in folded_norms(exported, weights)]
    wanted += [(fold.uses[0], fold.value) for fold in folded_constants(exported)]
    known = [(name, value) for name, value in wanted if is_floating(value.dtype) and value.size]
    off = {name: steps for each in contents.quantized if each.values.size for name, steps in _off(each, known)}
    for name, steps in off.items():
        message = f"{name} is up to {steps:.3g} steps of its channel from the checkpoint's, half a step is rounding"
        yield Check(level="fidelity", subject=name, status="fail", message=message, places=(name,), value=steps)
    if not off:
        message = f"{len(contents.quantized)} quantised weights and biases: none is more than half a step off"
        yield Check(level="fidelity", subject="steps", status="pass", message=message)


def _off(stored: Quantized, known: list[tuple[str, Values]]) -> Iterator[tuple[str, float]]:
    """The nearest weight of those that the tensor may be, and how many steps it is off; none if it is one of them."""
    distances = []
    for name, value in known:
        for order in _orders(value) if value.size == stored.values.size else ():
            apart = np.abs(value.astype(np.float64).transpose(order).ravel() - stored.values.ravel())
            steps = float((apart / stored.steps.ravel()).max())
            if steps <= _STEPS:
                return
            distances.append((float(np.linalg.norm(apart) / (np.linalg.norm(value) or 1.0)), name, steps))
    if distances and min(distances)[0] < _NEAR:
        _, name, steps = min(distances)
        yield name, steps


def _orders(value: Values) -> list[tuple[int, ...]]:
    if value.ndim > _MOST_PERMUTED_DIMS:
        return [tuple(range(value.ndim))]
    return list(permutations(range(value.ndim)))
