"""Weights that a converter to half precision rounded: each is the checkpoint's to within one unit of its last place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench.parity.cases import Values
from bench.parity.contents.folding import Folded
from export.arrays import is_floating, numpy_dtype
from export.contents import Contents

_LAST_PLACE = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The distance of neighbours at 1: converters round to the nearest value, or cut bits off."""
_SMALLEST = 2e-7
"""Converters to float16 move what is smaller to this or to 0; its own smallest is 6e-8."""


def as_float32(contents: Contents) -> Contents:
    """The same with what is narrower as float32, exactly."""
    wide = {
        name: stored.astype(np.float32) if is_floating(stored.dtype) and stored.dtype.itemsize == 2 else stored
        for name, stored in contents.weights.items()
    }
    return replace(contents, weights=wide)


def rounded(weights: Mapping[str, Values], folded: Sequence[Folded], half: str) -> list[Folded]:
    """What a file may hold in half precision: every weight, and what it was folded into."""
    floats = {name: weight.astype(np.float64) for name, weight in weights.items() if is_floating(weight.dtype)}
    how = f"rounded to {half}"
    alone = [
        Folded(value=value, tolerance=rounding(value, half), uses=(name,), how=how) for name, value in floats.items()
    ]
    return alone + [replace(fold, tolerance=fold.tolerance + rounding(fold.value, half), how=how) for fold in folded]


def by_width(contents: Contents) -> tuple[dict[str, Values], dict[str, Values]]:
    """The floating weights that are in half precision, as float32, and those in more bits."""
    wide = {name: stored for name, stored in contents.weights.items() if is_floating(stored.dtype)}
    narrow = {name: stored.astype(np.float32) for name, stored in wide.items() if stored.dtype.itemsize == 2}
    return narrow, {name: stored for name, stored in wide.items() if name not in narrow}


def nearest(value: Values, half: str) -> Values:
    """Each value rounded once, as float32."""
    narrow: Values = value.astype(numpy_dtype(half)).astype(np.float32)
    return narrow


def rounding(value: Values, half: str) -> Values:
    """By how much a converter may have moved each value."""
    tolerance: Values = _LAST_PLACE[half] * np.abs(value) + _SMALLEST
    return tolerance
