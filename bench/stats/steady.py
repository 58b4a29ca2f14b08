"""Whether samples had settled: change points in a series of block times.

Many programs never reach a steady state (Barrett et al., OOPSLA 2017), so it is looked for rather than presumed. The
samples of one candidate are taken relative to their rounds' common level first: a machine that changes its speed does
so for all, and pairs within rounds are fair through it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

_LEAST_SEGMENT = 5
_PENALTY = 3.0
_LEAST_STEP = 0.02
"""A change of level by less interests nobody."""
MAD_TO_SIGMA = 1.4826


def levels(series: Sequence[Sequence[float]]) -> list[float]:
    """Per round, the mean log of all candidates' samples: the machine's own speed."""
    return [statistics.mean(math.log(sample) for sample in samples) for samples in zip(*series, strict=True)]


def settled_at(samples_s: Sequence[float], common: Sequence[float]) -> int | None:
    """The first round of the last steady segment; None if that is shorter than half of the rounds.

    Binary segmentation of the logs with a penalty of ``3 log(n) sigma^2`` per change, sigma from the median absolute
    difference of neighbours.
    """
    logs = [math.log(sample) - level for sample, level in zip(samples_s, common, strict=True)]
    start = _last_change(logs)
    return start if len(logs) - start >= len(logs) / 2 else None


def _last_change(logs: Sequence[float]) -> int:
    count = len(logs)
    if count < 2 * _LEAST_SEGMENT:
        return 0
    steps = [abs(b - a) for a, b in itertools.pairwise(logs)]
    sigma = MAD_TO_SIGMA * statistics.median(steps) / math.sqrt(2)
    calm = [statistics.median(logs[max(at - 1, 0) : at + 2]) for at in range(count)]  # one slow round is no change
    start = 0
    while (split := _best_split(calm[start:], _PENALTY * math.log(count) * sigma**2)) is not None:
        start += split
    return start


def _best_split(logs: Sequence[float], penalty: float) -> int | None:
    """Where one change explains most, if that is more than the penalty."""
    count = len(logs)
    total = sum(logs)
    best, gain = None, penalty
    left = sum(logs[: _LEAST_SEGMENT - 1])
    for split in range(_LEAST_SEGMENT, count - _LEAST_SEGMENT + 1):
        left += logs[split - 1]
        right = total - left
        explained = left**2 / split + right**2 / (count - split) - total**2 / count
        step = abs(left / split - right / (count - split))
        if explained > gain and step > _LEAST_STEP:
            best, gain = split, explained
    return best
