"""The slope of one quantity on another, with a standard error that holds where ordinary least squares' does not.

Values of one row are not independent, noise grows with the value, and a channel behind a ReLU is zero in all but a few
rows: the residuals' common variance, divided by all of them, then claims a certainty that is not there. The variance
here is the cluster-robust one over rows (Liang and Zeger, 1986; White, 1980), enlarged for leverage as HC3 is
(MacKinnon and White, 1985). The slope is held to Student's distribution with as many degrees of freedom as there are
effective clusters, less one (Carter, Schnepel and Steigerwald, 2017): a slope that rests on five rows has five.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.stats.effects import t_quantile

Values = np.ndarray[Any, Any]
_MOST_DEGREES = 200
"""With more the quantile hardly changes, and fewer is the careful side."""
_LEAST_CLUSTERS = 8.0
_SAME = 1e-20
"""Variation, relative to the size, below which a value is constant."""


@dataclass(frozen=True)
class Slopes:
    """Per channel."""

    slope: Values
    error: Values
    """The standard error; infinite where nothing can be told."""
    clusters: Values
    """How many rows the slope effectively rests on."""

    def stands_out(self, chance: float) -> Values:
        """Whether a slope is there, with at most this chance of one wrong claim among all channels (Bonferroni)."""
        share = 1 - chance / 2 / max(self.slope.size, 1)
        degrees = np.clip(self.clusters - 1, 1, _MOST_DEGREES).astype(int)
        limits = np.array([t_quantile(share, int(each)) for each in degrees.ravel()]).reshape(degrees.shape)
        return np.asarray((np.abs(self.slope) > limits * self.error) & self.can_tell)

    @property
    def can_tell(self) -> Values:
        """Where enough rows vary for a slope to be judged."""
        return np.asarray((self.clusters >= _LEAST_CLUSTERS) & np.isfinite(self.error))

    def standard_errors(self) -> Values:
        """Each slope in units of its standard error."""
        return np.divide(np.abs(self.slope), self.error, out=np.zeros_like(self.slope), where=self.error > 0)


class SlopeSums:
    """Moments of ``(rows, elements, channels)``, added part by part: no row need be kept.

    A row's score in the regression is a linear function of its five sums (of ye, y, e, yy and 1), so that the sum of
    all squared scores is a form in the sum of their products.
    """

    def __init__(self) -> None:
        self._products: Values | None = None
        self._sums: Values | None = None
        self._origin: Values | None = None

    def add(self, y: Values, e: Values, valid: Values) -> None:
        """Add rows; where ``valid`` is false an element counts as absent. Another number of channels is ignored."""
        if self._origin is None:
            self._origin = np.where(valid.any((0, 1)), (y * valid).sum((0, 1)) / np.maximum(valid.sum((0, 1)), 1), 0.0)
            self._sums = np.zeros((5, y.shape[-1]))
            self._products = np.zeros((5, 5, y.shape[-1]))
        if self._origin.shape != y.shape[2:]:
            return
        assert self._sums is not None
        assert self._products is not None
        y, e = np.where(valid, y - self._origin, 0.0), np.where(valid, e, 0.0)
        moments = np.stack([(y * e).sum(1), y.sum(1), e.sum(1), np.square(y).sum(1), valid.sum(1).astype(float)])
        self._sums += moments.sum(1)
        self._products += np.einsum("irc,jrc->ijc", moments, moments)

    @property
    def count(self) -> int:
        """Elements of the channel that has fewest."""
        return 0 if self._sums is None else int(self._sums[4].min(initial=np.inf))

    def slopes(self) -> Slopes:
        """The regression of every channel.

        Raises:
            ValueError: nothing was added.
        """
        if self._sums is None or self._products is None or self._origin is None:
            raise ValueError("a slope needs at least one row")
        ye, y, e, yy, n = self._sums
        n = np.maximum(n, 1.0)
        mean_y, mean_e = y / n, e / n
        variation = yy - y * mean_y
        size = np.square(self._origin) * n + yy
        constant = variation <= _SAME * np.maximum(size, np.finfo(np.float64).tiny)
        variation = np.where(constant, 1.0, variation)
        slope = np.where(constant, 0.0, (ye - y * mean_e) / variation)
        intercept = mean_e - slope * mean_y
        nil, unit = np.zeros_like(slope), np.ones_like(slope)
        score = np.stack([unit, mean_y * slope - intercept, -mean_y, -slope, mean_y * intercept])
        leverage = np.stack([nil, -2 * mean_y, nil, unit, np.square(mean_y)])
        scores, leverages = (np.einsum("ic,ijc,jc->c", w, self._products, w).clip(0.0) for w in (score, leverage))
        clusters = np.where(constant, 0.0, np.square(variation) / np.maximum(leverages, np.finfo(np.float64).tiny))
        room = np.maximum(clusters - 1, 0.0)
        known = ~constant & (room > 0)
        enlarged = np.divide(clusters, room, out=np.ones_like(clusters), where=room > 0)
        error = np.where(known, np.sqrt(scores) / variation * enlarged, np.inf)
        return Slopes(slope, error, clusters)
