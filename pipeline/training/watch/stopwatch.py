"""Where the time of a training goes: reading data, forward, backward, optimizer.

On a device that computes while the host goes on, a part's time is known only after waiting for it, which costs time
itself: there one step in sixteen is waited for, and stands for the others.
"""

from __future__ import annotations

import time
from collections import defaultdict

import psutil
import torch

from export.device import Device

PARTS = ("data", "forward", "backward", "optimizer")
"""Parts of a step that is taken operator by operator; one that is taken at once is a part, ``step``, itself."""
_ONE_IN = 16


class Stopwatch:
    """Times the parts of steps, and counts rows, until it is read."""

    def __init__(self, where: Device) -> None:
        self._device, self._wait = where, where.synchroniser()
        self._steps_count = 0
        self._start_anew()

    def begin_step(self) -> None:
        """What follows is of the next step; its first part is the data's."""
        self._timed = not self._device.asynchronous or self._steps_count % _ONE_IN == 0
        self._steps_count += 1
        if self._timed:
            self._wait()
            self._lap_s = time.monotonic()

    def lap(self, part: str) -> None:
        """A part has ended."""
        if self._timed:
            self._wait()
            now_s = time.monotonic()
            self._parts_s[part] += now_s - self._lap_s
            self._lap_s = now_s

    def count(self, rows_count: int) -> None:
        """A step took so many rows."""
        self.rows_count += rows_count

    def rows_per_s(self) -> float:
        """Since it was last read."""
        return self.rows_count / max(time.monotonic() - self._begun_s, 1e-9)

    def read(self) -> dict[str, float]:
        """Seconds, rows a second, each part's share of the timed steps, memory (a device's at most); and begin anew."""
        self._wait()
        timed_s = sum(self._parts_s.values()) or 1.0
        parts = dict.fromkeys([*PARTS, *self._parts_s])
        figures = {
            "duration_s": round(time.monotonic() - self._begun_s, 6),
            "rows_per_s": round(self.rows_per_s(), 3),
            **{f"{part}_share": round(self._parts_s[part] / timed_s, 4) for part in parts},
            "memory_bytes": psutil.Process().memory_info().rss,
        }
        if self._device.asynchronous:
            figures["device_memory_bytes"] = torch.accelerator.max_memory_allocated(self._device.index)
        self._start_anew()
        return figures

    def _start_anew(self) -> None:
        self._parts_s: dict[str, float] = defaultdict(float)
        self.rows_count, self._timed = 0, False
        self._begun_s = self._lap_s = time.monotonic()
