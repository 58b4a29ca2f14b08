"""Whether errors grow with values: a regression per channel that holds for any noise, and for values that are rare.

Rounding is no textbook noise: it grows with the value, and the elements of a row share what came before them. Where a
channel is zero in all but a few rows, as after a ReLU, ordinary standard errors call chance a slope. So the rows are
observations (clusters: Cameron and Miller, J. Human Resources 50, 2015), and of each only its score counts: the sum
over its elements of (value - mean) x (error - mean), as if there were no slope (restricted residuals: Davidson and
MacKinnon, Annales de l'INSEE 59/60, 1985). If there is none, each score could as well have the other sign, however
large it is; then the sum of the scores over the root of the sum of their squares exceeds t at most 3.178 times as often
as a normal variable does (Efron, JASA 64, 1969; Bentkus and Dzindzalieta, Bernoulli 21, 2015). No degrees of freedom
are estimated.

What a pure slope can reach is the root of the effective number of rows, the square of the sum of their leverages over
the sum of the squares: where that is no more than the quantile, nothing can be told.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]

_TAIL_FACTOR = 3.178
"""Bentkus and Dzindzalieta: 1 / (4 P(Z >= sqrt 2))."""
_CONSTANT = 1e-12
"""A channel whose values spread by less than this share of their square has no slope: float32 can hardly tell them."""
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, kw_only=True)
class Slopes:
    """Figures of every channel."""

    slope: Values
    """By how much the error grows with the value; 0 where the value is constant."""
    score: Values
    """How far the slope stands out of its noise."""
    effective_rows: Values
    """As many rows of equal leverage would say as much."""


class SlopeSums:
    """What the regressions need of any number of rows: per channel, moments of the rows and their products."""

    def __init__(self) -> None:
        self._shift: Values | None = None
        self._sums: Values | None = None
        self._products: Values | None = None

    def add(self, values: Values, errors: Values, valid: Values) -> None:
        """Add rows: arrays of ``(rows, elements, channels)``; what is not valid counts as absent.

        Raises:
            ValueError: another number of channels than before.
        """
        mask = valid.astype(np.float64)
        if self._shift is None:  # products of moments would lose what a large mean covers
            self._shift = np.where(valid, values, 0.0).sum((0, 1)) / np.maximum(mask.sum((0, 1)), 1.0)
        y = np.where(valid, values - self._shift, 0.0)
        e = np.where(valid, errors, 0.0)
        moments = np.stack([mask.sum(1), y.sum(1), np.square(y).sum(1), e.sum(1), (e * y).sum(1)])
        sums, products = moments.sum(1), np.einsum("irc,jrc->ijc", moments, moments)
        self._sums = sums if self._sums is None else self._sums + sums
        self._products = products if self._products is None else self._products + products

    def result(self) -> Slopes | None:
        """The regression of every channel; None if nothing was added."""
        if self._sums is None or self._products is None or self._shift is None:
            return None
        n, sum_y, sum_yy, sum_e, sum_ey = self._sums
        n = np.maximum(n, 1.0)
        mean_y, mean_e = sum_y / n, sum_e / n
        spread = sum_yy - sum_y * mean_y
        size = sum_yy + 2 * self._shift * sum_y + n * self._shift**2
        constant = spread <= _CONSTANT * np.maximum(size, _TINY)
        spread = np.where(constant, np.inf, spread)
        together = np.where(constant, 0.0, sum_ey - sum_e * mean_y)
        zero, unit = np.zeros_like(n), np.ones_like(n)
        scores_squared = _squared(self._products, [mean_y * mean_e, -mean_e, zero, -mean_y, unit])
        leverages_squared = _squared(self._products, [mean_y**2, -2 * mean_y, unit, zero, zero])
        return Slopes(
            slope=together / spread,
            score=_over(together, np.sqrt(scores_squared)),
            effective_rows=np.where(constant, 0.0, _over(np.where(constant, 0.0, spread) ** 2, leverages_squared)),
        )


@functools.cache
def score_quantile(error: float, count: int) -> float:
    """The score that none of ``count`` channels without a slope exceeds, but with chance ``error``; two-sided.

    Bonferroni's correction: channels of one model are not independent.
    """
    return -statistics.NormalDist().inv_cdf(error / (2 * _TAIL_FACTOR * max(count, 1)))


def _over(values: Values, size: Values) -> Values:
    return np.divide(values, size, out=np.zeros_like(size), where=size > 0)


def _squared(products: Values, factors: Sequence[Values]) -> Values:
    """The sum over rows of the square of a combination of their moments."""
    combined = np.stack(factors)
    return np.asarray(np.maximum(np.einsum("ic,ijc,jc->c", combined, products, combined), 0.0))
