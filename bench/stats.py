"""Statistics of timings, derived from raw samples when read. The process is the unit: samples of one process are not
independent, and a test that pools them claims differences between a thing and itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Comparison = Literal["faster", "slower", "same", "inconclusive"]

# Student's t, 97.5 % quantile, by degrees of freedom (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2).
_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of times with its 95 % interval over processes."""

    value: float
    low: float
    high: float


def median_s(per_process: Sequence[Sequence[float]]) -> float:
    """The typical time: the median over processes of each process's median.

    Raises:
        ValueError: no samples.
    """
    return statistics.median(statistics.median(samples) for samples in per_process)


def paired_ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Ratio:
    """Our time over theirs: per process the median over rounds of the paired log-ratio, then a t interval.

    Raises:
        ValueError: fewer than two processes, or samples that do not pair.
    """
    logs = [
        statistics.median(math.log(a / b) for a, b in zip(one, other, strict=True))
        for one, other in zip(ours, theirs, strict=True)
    ]
    return mean_ratio(logs)


def mean_ratio(logs: Sequence[float]) -> Ratio:
    """Exp of the mean of per-process log-ratios, with a t interval over the processes.

    Raises:
        ValueError: fewer than two processes: one has no spread.
    """
    if len(logs) < 2:
        raise ValueError(f"an interval needs at least 2 processes, got {len(logs)}")
    centre = statistics.mean(logs)
    half = t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(value=math.exp(centre), low=math.exp(centre - half), high=math.exp(centre + half))


def word(ratio: Ratio, tie_ratio: float) -> Comparison:
    """What an interval allows to say, ``tie_ratio`` being the share below which nobody cares."""
    if ratio.high < 1 - tie_ratio:
        return "faster"
    if ratio.low > 1 + tie_ratio:
        return "slower"
    if 1 - tie_ratio <= ratio.low and ratio.high <= 1 + tie_ratio:
        return "same"
    return "inconclusive"


def t_quantile(degrees: int) -> float:
    """Student's 97.5 % quantile; the normal one past 30 degrees of freedom (off by less than 4 %)."""
    return _T_975[degrees - 1] if degrees <= len(_T_975) else statistics.NormalDist().inv_cdf(0.975)
