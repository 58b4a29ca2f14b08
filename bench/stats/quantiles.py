"""Percentiles of single calls, with intervals by order statistics, and only where there are enough calls for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_SURE = 0.99
"""As MLPerf's early stopping: a percentile counts as bounded when a sample proves it with this confidence."""
_ERROR = 0.05
_EXACT_COUNT = 2000
"""Beyond so many calls the binomial's ends are taken from the normal one: off by less than one call."""


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """A percentile of single calls, in seconds."""

    share: float
    value_s: float
    low_s: float
    high_s: float
    """95 % interval, from the binomial distribution of ranks."""
    calls_count: int


def least_calls(share: float) -> int:
    """Calls below which the largest of them does not bound the percentile: 44 for 0.9, 459 for 0.99."""
    return math.ceil(math.log(1 - _SURE) / math.log(share))


def percentile(calls_s: Sequence[float], share: float) -> Percentile | None:
    """The percentile (nearest rank), or None where so few calls do not support one."""
    count = len(calls_s)
    if count < least_calls(share):
        return None
    ranked = sorted(calls_s)
    low, high = _rank(count, share, _ERROR / 2), _rank(count, share, 1 - _ERROR / 2) + 1
    return Percentile(
        share=share,
        value_s=ranked[math.ceil(share * count) - 1],
        low_s=ranked[max(low - 1, 0)],
        high_s=ranked[min(high - 1, count - 1)],
        calls_count=count,
    )


def _rank(count: int, share: float, chance: float) -> int:
    """The smallest number of calls below the percentile that is reached with at least ``chance``."""
    if count > _EXACT_COUNT:
        from statistics import NormalDist

        spread = math.sqrt(count * share * (1 - share))
        return round(count * share + NormalDist().inv_cdf(chance) * spread)
    log_odds, log_rest = math.log(share), math.log(1 - share)
    total = 0.0
    for below in range(count + 1):
        ways = math.lgamma(count + 1) - math.lgamma(below + 1) - math.lgamma(count - below + 1)
        total += math.exp(ways + below * log_odds + (count - below) * log_rest)
        if total >= chance:
            return below
    return count
