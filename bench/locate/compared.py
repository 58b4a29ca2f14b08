"""One value of an artifact against the truth, computed from the same inputs: its local error, not an inherited one."""

from __future__ import annotations

import math

import numpy as np

from bench.parity.cases import Values

LIMIT = 4.0
"""From this local error on, in units of eager's own on the same inputs, a node is a suspect."""
_OCTAVES = 12
_FEWEST = 16
_PEAK_LIMIT = 16.0
"""One node on one batch: its largest error is known less well than over all rows."""


def local_ratio(truth: Values, eager: Values, got: Values) -> float:
    """RMS error in units of eager's; infinite for another shape, dtype or NaN; more than ``LIMIT`` is a suspect's."""
    if got.shape != truth.shape or got.dtype != eager.dtype:
        return math.inf
    if not np.issubdtype(eager.dtype, np.floating):
        return 0.0 if bool((got == eager).all()) else math.inf
    finite = np.isfinite(truth) & np.isfinite(eager)
    if not np.isfinite(got[finite]).all():
        return math.inf
    truth, eager, got = (array[finite].astype(np.float64) for array in (truth, eager, got))
    with np.errstate(divide="ignore"):
        sizes = np.floor(np.log2(np.abs(truth)) / _OCTAVES)
    return max((_of_one_size(truth[at], eager[at], got[at]) for at in _classes(sizes)), default=0.0)


def _classes(sizes: Values) -> list[Values]:
    """Elements of like magnitude together: where a mask adds -1e9 to some, they must not hide what the others do."""
    return [
        sizes == size for size in np.unique(sizes) if (sizes == size).sum() >= _FEWEST or len(np.unique(sizes)) == 1
    ]


def _of_one_size(truth: Values, eager: Values, got: Values) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        floor = np.where(np.isfinite(truth.astype(np.float32)), truth.astype(np.float32) - truth, 0.0)
    u_of_output = float(np.finfo(np.float32).eps) / 2 * _rms(truth)
    rms_unit = max(_rms(eager - truth), _rms(floor), u_of_output / 4, float(np.finfo(np.float32).tiny))
    peak_unit = max(float(np.abs(eager - truth).max()), float(np.abs(floor).max()), rms_unit)
    error = got - truth
    return max(_rms(error) / rms_unit, float(np.abs(error).max()) / peak_unit * LIMIT / _PEAK_LIMIT)


def _rms(values: Values) -> float:
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0
