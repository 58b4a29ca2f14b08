"""The one reader of the clock that times models."""

from __future__ import annotations

import time


def now_s() -> float:
    """Seconds on a monotonic clock of nanosecond resolution; its zero means nothing."""
    return time.perf_counter_ns() * 1e-9
