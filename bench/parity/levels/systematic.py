"""Systematic error: one that grows with the output, too small for any single element to show.

Over all rows, the difference from float64 is regressed on float64, per channel. Rounding has no slope: honest artifacts
stayed within 1.4 roundings (and 4.8 standard errors), a batch norm whose epsilon is 10 % off had 9.8 (and 39) while its
error ratio was an unremarkable 2.4. A channel fails past the threshold only if its slope is also three times eager's,
and stands out of its own noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.parity.answers import Answers
from bench.parity.check import Check, CheckStatus
from bench.parity.levels.level import Context, PerOutput
from bench.parity.spec import Thresholds
from export.arrays import float_limits

_LEAST_ROWS = 256
_MOST_CHANNELS = 4096
_TIMES_EAGER = 3.0
_STANDARD_ERRORS = 6.0


class SlopeTally:
    """Sums for the regressions of one output, per channel: of the artifact's error, and of eager's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._u = 0.0
        self._sums: np.ndarray[Any, Any] | None = None
        self._peak_ulps = 0.0

    def add(self, answers: Answers) -> None:
        """Add one case of rows; elements that cannot be compared count as absent."""
        if answers.case.group != "rows" or not answers.floating or answers.wide.ndim == 0:
            return
        self._u = float(float_limits(answers.eager.dtype).eps) / 2
        truth, got, eager, valid = (
            _by_channel(a) for a in (answers.wide, answers.got, answers.eager, answers.comparable)
        )
        if truth.shape[1] > _MOST_CHANNELS:
            return
        y = np.where(valid, truth, 0.0).astype(np.float64)
        sums = [valid.sum(0).astype(np.float64), y.sum(0), np.square(y).sum(0)]
        for other in (got, eager):
            error = np.where(valid, other, 0.0).astype(np.float64) - y
            sums += [error.sum(0), (error * y).sum(0), np.square(error).sum(0)]
        stacked = np.stack(sums)
        if self._sums is None:
            self._sums = stacked
        elif self._sums.shape == stacked.shape:
            self._sums += stacked

    @property
    def slope_ulps(self) -> float | None:
        """The steepest slope that stands out of its noise, in roundings; None if there are too few rows to tell."""
        slopes = self._slopes()
        if slopes is None:
            return None
        slope, score, _ = slopes
        standing = np.abs(slope)[np.abs(score) > _STANDARD_ERRORS]
        return float(standing.max(initial=0.0) / self._u)

    def checks(self, thresholds: Thresholds) -> list[Check]:
        """Whether any channel's error grows with its value."""
        slopes = self._slopes()
        if slopes is None:
            return []
        slope, score, eager = slopes
        bad = (
            (np.abs(slope) > thresholds.max_slope_ulps * self._u)
            & (np.abs(slope) > _TIMES_EAGER * np.abs(eager))
            & (np.abs(score) > _STANDARD_ERRORS)
        )
        steepest = float(np.abs(slope).max() / self._u)
        if not bad.any():
            message = f"steepest slope {steepest:.2f} roundings in {slope.size} channels"
            return [self._check("pass", message, steepest, thresholds)]
        worst = int(np.where(bad, np.abs(slope), 0.0).argmax())
        message = (
            f"{self.name}: the error of channel {worst} grows with its value by {slope[worst] / self._u:.3g} "
            f"roundings ({abs(score[worst]):.0f} standard errors), at most {thresholds.max_slope_ulps:.3g} passes"
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

    def _slopes(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        """Slope of the artifact's error per channel, its score in standard errors, and eager's slope."""
        if self._sums is None or self._sums[0].min() < _LEAST_ROWS:
            return None
        n, sum_y, sum_yy, *rest = self._sums
        spread = sum_yy - sum_y**2 / n
        constant = spread <= 1e-12 * np.maximum(sum_yy, np.finfo(np.float64).tiny)
        spread = np.where(constant, np.inf, spread)
        slopes = []
        for sum_e, sum_ey, _ in (rest[:3], rest[3:]):
            slopes.append((sum_ey - sum_e * sum_y / n) / spread)
        left = rest[2] - rest[0] ** 2 / n - slopes[0] ** 2 * np.where(constant, 0.0, spread)
        noise = np.sqrt(np.maximum(left, 0.0) / np.maximum(n - 2, 1.0) / spread)
        score = np.divide(slopes[0], noise, out=np.full_like(noise, np.inf), where=noise > 0)
        return slopes[0], np.where(slopes[0] == 0, 0.0, score), slopes[1]


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
    """``(observations, channels)``: channels are dimension 1 of an image, else the last; one where there is none."""
    if values.ndim <= 1:
        return values.reshape(-1, 1)
    axis = 1 if values.ndim >= 4 else values.ndim - 1
    moved = np.moveaxis(values, axis, -1)
    return moved.reshape(-1, moved.shape[-1])
