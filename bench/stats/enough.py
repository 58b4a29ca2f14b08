"""When enough rounds have been timed: once more of them would not make the figures of this process more exact.

The rule looks at the spread of the samples alone, never at who is ahead (Stein, *A two-sample test for a linear
hypothesis whose power is independent of the variance*, 1945; Chow and Robbins, *On the asymptotic theory of fixed-width
sequential confidence intervals*, 1965): a rule that stopped where a difference shows would find one too often. Claims
are made over processes, whose number is fixed before.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from bench.stats.steady import MAD_TO_SIGMA, levels

LEAST_ROUNDS = 10
"""With fewer a change of level cannot be found (bench/stats/steady.py)."""
_MEDIAN_TO_MEAN = math.sqrt(math.pi / 2)
"""The standard error of a median over that of a mean, of normal samples."""


def is_enough(series: Sequence[Sequence[float]], largest_error: float) -> bool:
    """Whether the median of each candidate, relative to the rounds' common level, has no larger standard error.

    ``series`` holds the samples of each candidate, by round; ``largest_error`` is a share.
    """
    if len(series[0]) < LEAST_ROUNDS:
        return False
    common = levels(series)
    relative = ([math.log(sample) - level for sample, level in zip(samples, common, strict=True)] for samples in series)
    return all(_error(logs) <= largest_error for logs in relative)


def _error(logs: Sequence[float]) -> float:
    """The standard error of the median, from the median absolute deviation."""
    centre = statistics.median(logs)
    sigma = MAD_TO_SIGMA * statistics.median(abs(log - centre) for log in logs)
    return _MEDIAN_TO_MEAN * sigma / math.sqrt(len(logs))
