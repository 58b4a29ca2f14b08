"""What float32 leaves open where a model chooses: ties, and scores so near each other that rounding decides.

An index is as right as float64's where the float64 scores of the two differ by no more than eager's own error on the
scores explains. What is computed from such an index (a box, a label) may be any of several values in that row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.parity.cases import Values
from export.arrays import float_limits, is_floating

ERRORS = 8.0
"""Two scores, each off by at most four times eager's largest error."""
_TIMES_USUAL = 16.0
"""A row that is off by more, in multiples of eager's usual error, comes of another choice."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The scores that an output's integers are indices into, in one call."""

    scores: Values
    """``(lists, candidates)``, in float64."""
    lists: Values
    """Per element of the output, the list that it is an index into."""
    tolerance: float
    """Scores that differ by no more are equal, as far as float32 can tell."""
    several: bool
    """Whether indices into one list differ from each other."""
    ordered: bool = True
    """Whether they come by rank; else all that are picked from a list count together."""

    def as_good(self, wide: Values, got: Values) -> Values:
        """Where an index picks a score as good as that which float64 picks."""
        inside = (got >= 0) & (got < self.scores.shape[1])
        picks = np.where(inside, got, 0).astype(np.int64)
        good = inside & (self._near(picks, wide) if self.ordered else self._near_together(picks, wide))
        return np.asarray(good & ~(self._repeated(picks) & ~self._repeated(wide))) if self.several else good

    def open(self, wide: Values) -> Values:
        """Where another index would be as good."""
        ranked = np.sort(self.scores, axis=1)
        places = zip(self.lists.ravel(), self._picked(wide).ravel(), strict=True)
        counts = [
            np.searchsorted(ranked[row], score + self.tolerance, "right")
            - np.searchsorted(ranked[row], score - self.tolerance, "left")
            for row, score in places
        ]
        return np.asarray(counts).reshape(wide.shape) > 1

    def _near(self, picks: Values, wide: Values) -> Values:
        """Where the scores of two indices are equal as far as float32 can tell."""
        return self._equal(self._picked(picks), self._picked(wide))

    def _near_together(self, picks: Values, wide: Values) -> Values:
        """The same of lists whose picks are put in order first: all of a list, or none."""
        lists = self.lists.ravel()
        scores = (self._picked(index).ravel() for index in (picks, wide))
        first, second = (values[np.lexsort((values, lists))] for values in scores)
        wrong = np.sort(lists)[~self._equal(first, second)]
        return ~np.isin(self.lists, wrong)

    def _equal(self, first: Values, second: Values) -> Values:
        with np.errstate(invalid="ignore"):  # two candidates that are masked with -Inf are equal
            return np.asarray((first == second) | (np.abs(first - second) <= self.tolerance))

    def _picked(self, index: Values) -> Values:
        return np.asarray(self.scores[self.lists, index.astype(np.int64)])

    def _repeated(self, index: Values) -> Values:
        """Where the same candidate of a list is picked more than once."""
        _, inverse, counts = np.unique(
            self.lists.astype(np.int64) * self.scores.shape[1] + index, return_inverse=True, return_counts=True
        )
        return np.asarray(counts[inverse.reshape(index.shape)] > 1)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What of one output, in one call, hangs on choices that float32 leaves open."""

    ranked: Ranked | None
    """None if the output is no index by itself."""
    open_rows: Values | None
    """Rows that are computed from an open choice: broadcasts to the output's shape; None if nothing is."""

    def other_rows(self, wide: Values, eager: Values, got: Values) -> Values:
        """Where answers are others than float64's because another choice was made, as good as float64's."""
        if self.open_rows is None or not self.open_rows.any():
            return np.zeros(wide.shape, bool)
        off = _off(wide, eager, eager) | _off(wide, eager, got)
        inner = tuple(axis for axis in range(wide.ndim) if self.open_rows.shape[axis] == 1)
        return np.broadcast_to(self.open_rows & off.any(inner, keepdims=True), wide.shape)

    def open(self, wide: Values) -> Values:
        """Where another answer may be as right."""
        rows = np.zeros(wide.shape, bool) if self.open_rows is None else np.broadcast_to(self.open_rows, wide.shape)
        return rows | self.ranked.open(wide) if self.ranked is not None and wide.size else rows


def _off(wide: Values, eager: Values, got: Values) -> Values:
    """Where a value is farther from float64's than rounding takes it, judged by eager's usual error."""
    if not is_floating(eager.dtype):
        return np.asarray(got != wide)
    with np.errstate(invalid="ignore"):
        errors = np.nan_to_num(np.abs(eager.astype(np.float64) - wide), posinf=0.0)
        apart = np.where((got == wide) | (np.isnan(got) & np.isnan(wide)), 0.0, np.abs(got.astype(np.float64) - wide))
    usual = float(np.median(errors.reshape(len(errors), -1).max(1))) if errors.ndim else float(errors)
    rounding = float(float_limits(eager.dtype).eps) * float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0))
    return np.asarray(~(apart <= _TIMES_USUAL * max(usual, rounding)))
