"""The one reader of the clock that times models, and the one rule of synchronisation."""

from __future__ import annotations

import time
from collections.abc import Callable


def now_s() -> float:
    """Seconds on a monotonic clock of nanosecond resolution; its zero means nothing."""
    return time.perf_counter_ns() * 1e-9


def synchroniser(device: str) -> Callable[[], None]:
    """Waits until everything queued on ``device`` is done; nothing to wait for on the CPU."""
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize
