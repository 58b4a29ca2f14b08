"""Statistics of timings, derived from raw samples when read. The process is the unit: samples of one process are not
independent, and a test that pools them claims differences between a thing and itself.

An effect is a ratio of times, paired within rounds; its interval goes over processes (Georges et al., OOPSLA 2007;
Kalibera and Jones, ISMM 2013). Where several are claimed at once, intervals are widened by Holm's step-down rule, and a
difference counts only beyond the noise floor: what the same session found between an artifact and itself.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Comparison = Literal["faster", "slower", "same", "inconclusive"]

FAMILY_ERROR = 0.05
"""The chance of one wrong claim among all comparisons that are made together."""
LARGEST_RATIO = 1000.0
"""An interval that reaches farther says that nothing is known in that direction."""
LARGEST_SHARE = 10.0
"""A difference of more than eleven times the time is no difference that a noise floor or a power is stated for."""
_POWER = 0.8
_MOST_PROCESSES = 1000
Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of times with its interval over processes."""

    value: float
    low: float | None
    """None where the interval reaches below 1 / ``LARGEST_RATIO``: it bounds nothing."""
    high: float | None
    """None where it reaches above ``LARGEST_RATIO``."""

    @property
    def inverse(self) -> Ratio:
        """How many times faster instead of how many times as long."""
        ends = (None if end is None else 1 / end for end in (self.high, self.low))
        return Ratio(value=1 / self.value, low=next(ends), high=next(ends))

    def holds(self, value: float) -> bool:
        """Whether a value lies in the interval."""
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)

    def spelled(self, digits: int = 2) -> str:
        """``1.72 [1.64, 1.81]``; small ratios with two digits, an unknown end by the limit that it lies beyond."""
        low = f"under {1 / LARGEST_RATIO:g}" if self.low is None else _spelled(self.low, digits)
        high = f"over {LARGEST_RATIO:g}" if self.high is None else _spelled(self.high, digits)
        return f"{_spelled(self.value, digits)} [{low}, {high}]"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What may be said of one ratio of times among all those that were compared with it."""

    ratio: Ratio
    """With the interval at the level that Holm's rule gives it."""
    comparison: Comparison
    noise_ratio: float | None
    """The noise floor, a share: an artifact against itself differed by so much. None beyond ``LARGEST_SHARE``."""
    detectable_ratio: float | None
    """The smallest share that so many processes show four times out of five. None beyond ``LARGEST_SHARE``."""
    needs_processes_count: int | None
    """About how many processes would settle it; None if it is settled, or lies within the noise floor."""


def _spelled(ratio: float, digits: int) -> str:
    """So many decimals, or as many more as two significant digits take."""
    return f"{ratio:.{max(digits, 1 - math.floor(math.log10(ratio)))}f}"


def median_s(per_process: Sequence[Sequence[float]]) -> float:
    """The typical time: the median over processes of each process's median.

    Raises:
        ValueError: no samples.
    """
    return statistics.median(statistics.median(samples) for samples in per_process)


def paired_logs(samples: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> list[float]:
    """Per process, the median over rounds of the log of a sample over the baseline's in the same round.

    Raises:
        ValueError: samples that do not pair.
    """
    return [
        statistics.median(math.log(a / b) for a, b in zip(samples_s, baseline_s, strict=True))
        for samples_s, baseline_s in zip(samples, baseline, strict=True)
    ]


def mean_ratio(logs: Sequence[float], error: float = FAMILY_ERROR) -> Ratio:
    """Exp of the mean of per-process log-ratios, with a t interval over the processes at level ``1 - error``.

    Raises:
        ValueError: fewer than two processes: one has no spread.
    """
    if len(logs) < 2:
        raise ValueError(f"an interval needs at least 2 processes, got {len(logs)}")
    return _ratio(statistics.mean(logs), _half_width(logs, error))


def unpaired(now: Sequence[float], then: Sequence[float], error: float = FAMILY_ERROR) -> Ratio:
    """Exp of the difference of two means of log-ratios that were not taken together, with Welch's interval at level
    ``1 - error`` (Welch 1947; degrees of freedom by Satterthwaite 1946, rounded down).

    Raises:
        ValueError: fewer than two processes on a side.
    """
    if min(len(now), len(then)) < 2:
        raise ValueError(f"an interval needs at least 2 processes on each side, got {len(now)} and {len(then)}")
    centre = statistics.mean(now) - statistics.mean(then)
    parts = [(statistics.variance(logs) / len(logs), len(logs) - 1) for logs in (now, then)]
    variance = sum(part for part, _ in parts)
    doubts = sum(part**2 / degrees for part, degrees in parts)
    degrees = int(variance**2 / doubts) if doubts else len(now) + len(then) - 2
    return _ratio(centre, t_quantile(1 - error / 2, degrees) * math.sqrt(variance))


def _ratio(centre: float, half: float) -> Ratio:
    """Exp of a mean and its interval; an end that is beyond all reason is left open."""
    reach = math.log(LARGEST_RATIO)
    return Ratio(
        value=math.exp(centre),
        low=math.exp(centre - half) if centre - half >= -reach else None,
        high=math.exp(centre + half) if centre + half <= reach else None,
    )


def noise_floor(logs: Sequence[float]) -> float:
    """The log-ratio that an A/A pair reaches: the farther end of its 95 % interval.

    Raises:
        ValueError: fewer than two processes.
    """
    if len(logs) < 2:
        raise ValueError(f"a noise floor needs at least 2 processes, got {len(logs)}")
    return abs(statistics.mean(logs)) + _half_width(logs, FAMILY_ERROR)


def effects(logs: Mapping[Key, Sequence[float]], floor: Callable[[Key], float], tie_ratio: float) -> dict[Key, Effect]:
    """What may be said of each of a family of log-ratios, one per process, without a wrong claim among them all.

    ``floor(key)`` is the noise floor of that comparison, as a log-ratio; differences below ``tie_ratio`` interest
    nobody. ``same``: the interval lies within the tie; ``faster`` and ``slower``: it lies beyond the noise floor.
    """
    chances = {key: _chance(log_ratios, floor(key)) for key, log_ratios in logs.items()}
    judged: dict[Key, Effect] = {}
    open_count, settled = len(logs), True
    for key in sorted(logs, key=lambda key: chances[key]):
        error = FAMILY_ERROR / open_count
        settled = settled and chances[key] <= error
        judged[key] = _effect(logs[key], floor(key), tie_ratio, error, may_differ=settled)
        open_count -= settled  # Holm: one that holds lowers the bar for the next, one that does not ends it
    return {key: judged[key] for key in logs}


def _effect(logs: Sequence[float], floor: float, tie_ratio: float, error: float, *, may_differ: bool) -> Effect:
    ratio = mean_ratio(logs, error)
    tie = math.log1p(tie_ratio)
    centre, half = statistics.mean(logs), _half_width(logs, error)
    comparison: Comparison = "inconclusive"
    if -tie <= centre - half and centre + half <= tie:
        comparison = "same"
    elif may_differ:
        comparison = "faster" if centre < 0 else "slower"
    spread = statistics.stdev(logs)
    degrees = len(logs) - 1
    detectable = (t_quantile(1 - error / 2, degrees) + t_quantile(_POWER, degrees)) * spread / math.sqrt(len(logs))
    gap = max(abs(centre) - floor, tie - abs(centre))
    return Effect(
        ratio=ratio,
        comparison=comparison,
        noise_ratio=noise_share(floor),
        detectable_ratio=noise_share(detectable),
        needs_processes_count=_needed(spread, gap, error) if comparison == "inconclusive" else None,
    )


def _chance(logs: Sequence[float], floor: float) -> float:
    """How likely so large a difference would be if the true one did not exceed the floor; two-sided."""
    ill_conditioned = abs(statistics.mean(logs)) - floor
    if ill_conditioned <= 0:
        return 1.0
    spread = statistics.stdev(logs)
    return 0.0 if spread == 0 else 2 * (1 - t_cdf(ill_conditioned / (spread / math.sqrt(len(logs))), len(logs) - 1))


def noise_share(log: float) -> float | None:
    """A log-ratio as a share; None where it is so large that it says nothing."""
    return math.expm1(log) if log <= math.log1p(LARGEST_SHARE) else None


def _half_width(logs: Sequence[float], error: float) -> float:
    return t_quantile(1 - error / 2, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))


def _needed(spread: float, gap: float, error: float) -> int | None:
    """Processes after which the interval is as narrow as ``gap``; None if more would not help."""
    if gap <= 0:
        return None
    low, high = 1, _MOST_PROCESSES  # too few, and perhaps enough: the interval narrows with every process
    while high - low > 1:
        count = (low + high) // 2
        narrow = t_quantile(1 - error / 2, count - 1) * spread / math.sqrt(count) <= gap
        low, high = (low, count) if narrow else (count, high)
    return high if high < _MOST_PROCESSES else None


def t_cdf(t: float, degrees: int) -> float:
    """Student's distribution for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(degrees))
    cos2 = math.cos(angle) ** 2
    term = 1.0 if degrees % 2 == 0 else math.cos(angle)
    total = term if degrees > 1 else 0.0
    for k in range(2 if degrees % 2 == 0 else 3, degrees - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    inside = math.sin(angle) * total
    if degrees % 2 == 1:
        inside = (angle + inside) * 2 / math.pi
    return (1 + inside) / 2


@functools.cache
def t_quantile(share: float, degrees: int) -> float:
    """The value that Student's variable stays below with chance ``share``, by bisection."""
    if share < 0.5:
        return -t_quantile(1 - share, degrees)
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < share:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < share else (low, middle)
    return high
