"""Systematic error: one that grows with the output, too small for any single element to show.

Over all rows, the difference from float64 is regressed on float64, per channel. Rounding has no slope: honest artifacts
stayed within 1.4 roundings, a batch norm whose epsilon is 10 % off had 9.8 while its error ratio was an unremarkable
2.4. A channel fails past the threshold only if its slope stands out of its own noise (``bench/stats/slope.py``), and is
also three times eager's: in that channel, and in the steepest of the output's that stands out in eager. Eager has such
slopes, too, where constants are computed in float32, as the weights of a resized image are. Channels that vary in too
few rows to tell are not judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bench.parity.answers import Answers
from bench.parity.cases import Values
from bench.parity.check import Check, CheckStatus
from bench.parity.levels.level import Context, PerOutput
from bench.parity.spec import Thresholds
from bench.stats.slope import Slopes, SlopeSums, score_quantile
from export.arrays import float_limits

_MOST_CHANNELS = 4096
_TIMES_EAGER = 3.0
_FAMILY_ERROR = 1e-4
"""The chance of refusing an artifact without a slope, over all channels of all its outputs."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The slopes of one output, in what is asked of them."""

    artifact: Slopes
    eager: Slopes
    quantile: float
    """The score past which a slope stands out."""

    @property
    def tells(self) -> Values:
        """Channels that vary in enough rows for a slope to stand out at all."""
        return np.asarray(self.artifact.effective_rows > self.quantile**2)

    @property
    def stands_out(self) -> Values:
        """Channels whose slope is no chance."""
        return self._stand_out(self.artifact)

    def too_steep(self, limit: float) -> Values:
        """Channels whose slope is past the limit, and three times eager's."""
        size, eager = np.abs(self.artifact.slope), np.abs(self.eager.slope)
        steepest = eager[self._stand_out(self.eager)].max(initial=0.0)
        return np.asarray(self.stands_out & (size > limit) & (size > _TIMES_EAGER * np.maximum(eager, steepest)))

    def _stand_out(self, slopes: Slopes) -> Values:
        return np.asarray(self.tells & (np.abs(slopes.score) > self.quantile))


class SlopeTally:
    """Sums for the regressions of one output, per channel: of the artifact's error, and of eager's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._u = 0.0
        self._artifact, self._eager = SlopeSums(), SlopeSums()
        self._channels_count: int | None = None
        self._seen: set[bytes] = set()
        """Digests of rows: those that come again, in other batches or as tokens do, are no new observations."""

    def add(self, answers: Answers) -> None:
        """Add one case of rows; elements that cannot be compared count as absent."""
        if answers.case.group != "rows" or not answers.floating or answers.wide.ndim == 0:
            return
        self._u = float(float_limits(answers.eager.dtype).eps) / 2
        sizes = set(answers.case.sizes.values())
        truth, got, eager, valid = (
            _by_row(a, sizes) for a in (answers.wide, answers.got, answers.eager, answers.comparable)
        )
        if self._channels_count is None:
            self._channels_count = truth.shape[2]
        if truth.shape[2] > _MOST_CHANNELS or truth.shape[2] != self._channels_count:
            return
        new = self._new(truth)
        truth, got, eager, valid = truth[new], got[new], eager[new], valid[new]
        y = np.where(valid, truth, 0.0).astype(np.float64)
        for sums, other in ((self._artifact, got), (self._eager, eager)):
            sums.add(y, np.where(valid, other, 0.0).astype(np.float64) - y, valid)

    @property
    def slope_ulps(self) -> float | None:
        """The steepest slope that stands out of its noise, in roundings; None if there are too few rows to tell."""
        judged = self._judged(1)
        if judged is None or not judged.tells.any():
            return None
        return float(np.abs(judged.artifact.slope)[judged.stands_out].max(initial=0.0) / self._u)

    def checks(self, thresholds: Thresholds, outputs_count: int = 1) -> list[Check]:
        """Whether any channel's error grows with its value; all outputs share the chance of a false alarm."""
        judged = self._judged(outputs_count)
        if judged is None:
            return []
        tells, slope = judged.tells, judged.artifact.slope
        if not tells.any():
            message = f"none of {slope.size} channels varies in enough rows to tell a slope"
            return [self._check("reported", message, 0.0, thresholds)]
        bad = judged.too_steep(thresholds.max_slope_ulps * self._u)
        if not bad.any():
            steepest = float(np.abs(slope)[tells].max() / self._u)
            count = f"{tells.sum()} of {slope.size}" if not tells.all() else f"{slope.size}"
            message = f"steepest slope {steepest:.2f} roundings in {count} channels"
            if not tells.all():
                message += "; the others vary in too few rows to tell"
            return [self._check("pass", message, steepest, thresholds)]
        worst = int(np.where(bad, np.abs(slope), 0.0).argmax())
        message = (
            f"{self.name}: the error of channel {worst} grows with its value by {slope[worst] / self._u:.3g} "
            f"roundings (a score of {abs(judged.artifact.score[worst]):.1f}, chance reaches {judged.quantile:.1f} in "
            f"{tells.sum()} judged of {slope.size} channels), at most {thresholds.max_slope_ulps:.3g} passes"
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

    def _judged(self, outputs_count: int) -> Judged | None:
        artifact, eager = self._artifact.result(), self._eager.result()
        if artifact is None or eager is None or not artifact.slope.size:
            return None
        quantile = score_quantile(_FAMILY_ERROR, artifact.slope.size * outputs_count)
        return Judged(artifact=artifact, eager=eager, quantile=quantile)

    def _new(self, truth: Values) -> Values:
        """Which rows were not seen before; float64 itself may differ in its last bits in another batch."""
        with np.errstate(over="ignore"):
            rows = truth.astype(np.float32)
        new = np.zeros(len(rows), bool)
        for index, row in enumerate(rows):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            new[index] = digest not in self._seen
            self._seen.add(digest)
        return new


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
                yield from self.of(output).checks(context.limits, len(context.outputs))


def _by_row(values: Values, sizes: set[int]) -> Values:
    """``(rows, elements, channels)``: channels are dimension 1 of an image, else the last; one where there is none.

    Rows are the first dimension that has one of the call's sizes, else the first.
    """
    if values.ndim == 1:
        return values.reshape(-1, 1, 1)
    channels = 1 if values.ndim >= 4 else values.ndim - 1
    axes = [axis for axis in range(values.ndim) if axis != channels]
    rows = next((axis for axis in axes if values.shape[axis] in sizes), axes[0])
    moved = np.moveaxis(values, (rows, channels), (0, -1))
    return moved.reshape(moved.shape[0], -1, moved.shape[-1]) if moved.size else moved.reshape(0, 0, moved.shape[-1])
