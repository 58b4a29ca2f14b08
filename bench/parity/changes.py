"""What is made of a call's real numbers: other values, extremes, NaN and Inf. What is declared of them stays true.

Changed values stay between the signature's ``low`` and ``high``. Integers and booleans are never changed: ids, masks
and lengths stand in relations to each other that nobody declared, and other ones are other rows. Nor is what a function
draws, whose values belong together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from export.arrays import float_limits, is_floating
from export.signature import TensorSpec

Values = np.ndarray[Any, Any]


def _ties(values: Values, high: float) -> Values:
    return np.broadcast_to(values.flat[:1].reshape((1,) * values.ndim), values.shape) if values.size else values


def _constant_column(values: Values, high: float) -> Values:
    changed = values.copy()
    if changed.ndim > 1 and changed.size:
        changed[..., 0] = changed.flat[0]
    return changed


def _scaled(size: float) -> Callable[[Values, float], Values]:
    """The same directions at another magnitude."""

    def change(values: Values, high: float) -> Values:
        peak = float(np.abs(values).max(initial=0.0)) or 1.0
        return values.astype(np.float64) / peak * min(size, high)

    return change


def _planted(planted: float) -> Callable[[Values, float], Values]:
    def change(values: Values, high: float) -> Values:
        changed = values.copy()
        if changed.size:
            changed.flat[changed.size // 2] = planted
        return changed

    return change


VALUES: dict[str, Callable[[Values, float], Values]] = {
    "all positive": lambda values, high: np.abs(values),
    "all negative": lambda values, high: -np.abs(values),
    "four times as large": lambda values, high: values * 4,
    "a quarter as large": lambda values, high: values / 4,
}
EXTREMES: dict[str, Callable[[Values, float], Values]] = {
    "zeros": lambda values, high: np.zeros_like(values),
    "negative zeros": lambda values, high: -np.zeros_like(values),
    "ones": lambda values, high: np.ones_like(values),
    "denormals": _scaled(1e-41),
    "tiny": _scaled(1e-30),
    "large": _scaled(1e4),
    "huge": _scaled(1e30),
    "near overflow": _scaled(3e38),
    "alternating signs": lambda values, high: np.where(np.arange(values.size).reshape(values.shape) % 2, 1, -1),
    "all equal": _ties,
    "a constant column": _constant_column,
}
NON_FINITE: dict[str, Callable[[Values, float], Values]] = {
    "NaN in one element": _planted(np.nan),
    "Inf in one element": _planted(np.inf),
    "-Inf in one element": _planted(-np.inf),
}
PAST_FLOAT16 = ("large", "huge", "near overflow")
"""Changes after which what a model computes may lie beyond 65504."""
_CHANGES = {**VALUES, **EXTREMES, **NON_FINITE}


def changed(spec: TensorSpec, values: Values, change: str) -> Values:
    """One input under a change, in the dtype that it has."""
    if not is_floating(values.dtype) or spec.by_function:
        return values
    with np.errstate(over="ignore"):  # float16 has no 1e30: Inf is what a caller would pass
        wide = _CHANGES[change](values.astype(np.float64), float(float_limits(values.dtype).max))
        if change not in NON_FINITE:
            wide = wide.clip(*spec.bounds({}))  # sizes bound integers alone
        return np.ascontiguousarray(wide.astype(values.dtype)).reshape(values.shape)
