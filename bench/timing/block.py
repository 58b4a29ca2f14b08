"""One candidate at one batch size: warmed up, and then timed a block of calls at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from bench.timing.clock import now_s
from export.device import Device

_QUICK_S = 0.05
"""A call shorter than this is worth repeating to know how long it takes."""


def waited(run: Callable[[], Any], where: Device) -> Callable[[], Any]:
    """The call until its answer is there, for which a caller waits; itself where no call returns before that."""
    if not where.asynchronous:
        return run
    synchronise = where.synchroniser()

    def call() -> Any:
        answer = run()
        synchronise()
        return answer

    return call


class Block:
    """A number of calls, timed as one, whose inputs rotate among the buffers that ``runs`` are bound to.

    Calls that a device queues are together done sooner than as many that are waited for one by one: the first kind is
    throughput, the second latency.
    """

    def __init__(self, runs: list[Callable[[], Any]], synchronise: Callable[[], None]) -> None:
        self._runs = runs
        self._synchronise = synchronise
        self._turn = 0
        self.calls_count = 1
        self.warmup_calls_count = 0
        self.warmup_s = 0.0

    def warm_up(self, calls_count: int, least_s: float, most_s: float, block_s: float) -> float:
        """Call until count and time are reached (or the longest time is); then choose how many calls make a block.

        Returns the seconds that a block is expected to take.
        """
        started = now_s()
        while self.warmup_s < most_s and (self.warmup_calls_count < calls_count or self.warmup_s < least_s):
            self._time_s(len(self._runs) if self.warmup_s == 0.0 or self.warmup_s < _QUICK_S else 1)
            self.warmup_s = now_s() - started
        one_s = self._time_s(1)
        if one_s < _QUICK_S:
            one_s = min(self._time_s(len(self._runs)) for _ in range(3)) / len(self._runs)
        self.calls_count = max(1, round(block_s / max(one_s, 1e-9)))
        if self.calls_count >= len(self._runs):
            self.calls_count -= self.calls_count % len(self._runs)  # every buffer equally often
        return one_s * self.calls_count

    def sample_s(self) -> float:
        """Seconds per call over one block, the garbage collector off."""
        gc.collect(0)
        gc.disable()
        try:
            return self._time_s(self.calls_count) / self.calls_count
        finally:
            gc.enable()

    def calls_s(self, calls_count: int) -> list[float]:
        """Seconds of so many single calls, each waited for, the garbage collector off."""
        gc.collect(0)
        gc.disable()
        try:
            return [self._time_s(1) for _ in range(calls_count)]
        finally:
            gc.enable()

    def rest(self) -> None:
        """One untimed call of every buffer, after another candidate ran."""
        self._time_s(len(self._runs))

    def _time_s(self, calls_count: int) -> float:
        """Seconds that so many calls take together; each begins with the buffer after the last one used."""
        first = self._turn
        runs = (self._runs[first:] + self._runs[:first]) * -(-calls_count // len(self._runs))
        runs = runs[:calls_count]
        self._turn = (first + calls_count) % len(self._runs)
        self.warmup_calls_count += calls_count
        self._synchronise()
        started = now_s()
        for run in runs:
            run()
        self._synchronise()
        return now_s() - started
