"""Systematic error: one that grows with the output, too small for any single element to show.

Over all rows, the difference from float64 is regressed on float64, per channel. Rounding has no slope: honest artifacts
stayed within 1.4 roundings, a batch norm whose epsilon is 10 % off had 9.8 while its error ratio was an unremarkable
2.4. A channel fails past the threshold only if its slope is also three times eager's, and stands out of its own noise:
with a chance of one in ten thousand that any channel of a right artifact does (bench/stats/slope.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.parity.answers import Answers
from bench.parity.check import Check, CheckStatus
from bench.parity.levels.level import Context, PerOutput
from bench.parity.spec import Thresholds
from bench.stats.slope import SlopeSums
from export.arrays import float_limits

_LEAST_VALUES = 256
_MOST_CHANNELS = 4096
_TIMES_EAGER = 3.0
_CHANCE = 1e-4


class SlopeTally:
    """Sums for the regressions of one output, per channel: of the artifact's error, and of eager's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._u = 0.0
        self._artifact, self._eager = SlopeSums(), SlopeSums()

    def add(self, answers: Answers) -> None:
        """Add one case of rows; elements that cannot be compared count as absent."""
        if answers.case.group != "rows" or not answers.floating or answers.wide.ndim == 0 or not answers.wide.size:
            return
        self._u = float(float_limits(answers.eager.dtype).eps) / 2
        truth, got, eager, valid = (
            _by_channel(a) for a in (answers.wide, answers.got, answers.eager, answers.comparable)
        )
        if truth.shape[-1] > _MOST_CHANNELS:
            return
        y = np.where(valid, truth, 0.0).astype(np.float64)
        for sums, other in ((self._artifact, got), (self._eager, eager)):
            sums.add(y, np.where(valid, other, 0.0).astype(np.float64) - y, valid)

    @property
    def slope_ulps(self) -> float | None:
        """The steepest slope that stands out of its noise, in roundings; None if there are too few rows to tell."""
        if self._artifact.count < _LEAST_VALUES:
            return None
        slopes = self._artifact.slopes()
        return float(np.abs(slopes.slope)[slopes.stands_out(_CHANCE)].max(initial=0.0) / self._u)

    def checks(self, thresholds: Thresholds) -> list[Check]:
        """Whether any channel's error grows with its value."""
        if self._artifact.count < _LEAST_VALUES:
            return []
        slopes, eager = self._artifact.slopes(), self._eager.slopes()
        slope, judged = slopes.slope, slopes.can_tell
        bad = (
            (np.abs(slope) > thresholds.max_slope_ulps * self._u)
            & (np.abs(slope) > _TIMES_EAGER * np.abs(eager.slope))
            & slopes.stands_out(_CHANCE)
        )
        steepest = float(np.abs(slope)[judged].max(initial=0.0) / self._u)
        if not bad.any():
            of = (
                f"{slope.size} channels"
                if judged.all()
                else f"{int(judged.sum())} of {slope.size} channels, the others vary in too few rows"
            )
            return [self._check("pass", f"steepest slope {steepest:.2f} roundings in {of}", steepest, thresholds)]
        worst = int(np.where(bad, np.abs(slope), 0.0).argmax())
        message = (
            f"{self.name}: the error of channel {worst} grows with its value by {slope[worst] / self._u:.3g} roundings "
            f"({slopes.standard_errors()[worst]:.0f} standard errors, in effect {slopes.clusters[worst]:.0f} rows), "
            f"at most {thresholds.max_slope_ulps:.3g} passes"
        )
        return [self._check("fail", message, float(abs(slope[worst]) / self._u), thresholds)]

    def _check(self, status: CheckStatus, message: str, value: float, thresholds: Thresholds) -> Check:
        return Check(
            level="systematic",
            subject=self.name,
            status=status,
            message=message,
            value=value,
            limit=thresholds.max_slope_ulps,
        )


class Systematic(PerOutput[SlopeTally]):
    """Error that grows with the output."""

    name = "systematic"
    meaning = "no error that grows with the output"
    exact = True
    tally = SlopeTally

    def checks(self, context: Context) -> Iterable[Check]:
        """The slopes of every output; none without a float64 answer."""
        if context.has_reference:
            for output in context.outputs:
                yield from self.of(output).checks(context.limits)


def _by_channel(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``(rows, elements, channels)``: channels are dimension 1 of an image, else the last; one where there is none."""
    if values.ndim <= 1:
        return values.reshape(-1, 1, 1)
    axis = 1 if values.ndim >= 4 else values.ndim - 1
    moved = np.moveaxis(values, axis, -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])
