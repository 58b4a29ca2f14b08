"""The thread count at which an artifact is compared: the better of those that it was timed with in the same rounds.

Two threads beside a neighbour on two cores take milliseconds for what one does in microseconds: a comparison at one
fixed count would be of the neighbour. One count serves all batch sizes, as a deployment has one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace

from bench.stats.effects import median_s
from bench.timing.measurement import Measurement, Samples
from bench.verdict.figures import by_batch
from bench.verdict.spoilt import spoilt
from export.backend import LoadOptions


def better_options(
    measured: Measurement, asked: LoadOptions, tie_ratio: float, breaks: Callable[[LoadOptions], bool]
) -> LoadOptions:
    """``asked`` with the thread count of the smallest geometric mean over all batch sizes.

    Of those whose times are their own, if any's are; and of those at which a limit ``breaks`` only if it does so at
    each. Another count than the asked one must be faster by more than ``tie_ratio``, a share of the time, where the
    limits hold at both.
    """
    batches = {samples.batch_rows for samples in measured.samples}
    times = {
        replace(asked, threads_count=count): statistics.mean(math.log(median_s(times_s)) for times_s in series.values())
        for count in sorted({samples.threads_count for samples in measured.samples})
        if (series := by_batch(measured.samples, count)).keys() == batches
    }
    times = {options: log_s for options, log_s in times.items() if not is_spoilt(measured, options)} or times
    times = {options: log_s for options, log_s in times.items() if not breaks(options)} or times
    fastest = min(times, key=lambda options: times[options])
    is_tie = asked in times and times[fastest] >= times[asked] + math.log1p(-tie_ratio)
    return asked if is_tie else fastest


def is_spoilt(measured: Measurement, options: LoadOptions) -> bool:
    """Whether its times with these settings are not its own at some batch size."""
    by_size: dict[int, list[Samples]] = {}
    for samples in measured.samples:
        if samples.threads_count == options.threads_count:
            by_size.setdefault(samples.batch_rows, []).append(samples)
    return any(spoilt(series) is not None for series in by_size.values())
