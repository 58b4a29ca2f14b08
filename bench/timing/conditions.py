"""The state of the machine while something was measured, and what of it makes figures doubtful.

Nothing is set: clocks, governors and limits belong to whoever runs the machine. What is bad is said, with the number.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from bench.timing.clock import now_s
from bench.timing.gpu_conditions import GpuConditions, GpuWatch
from export.device import HOST, Device
from export.record import OMITTED

_STEAL_SHARE = 0.02
_FOREIGN_SHARE = 0.10
_CAPACITY_SHARE = 0.80
_HASHED_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """One process's surroundings."""

    steal_share: float | None
    """The share of the machine's time that the hypervisor gave to others; None where the system does not tell."""
    foreign_share: float
    """The share of the cores' time that other processes used."""
    load_before: float
    """Runnable tasks over the last minute, when it began."""
    involuntary_switches_count: int
    swapped_bytes: int
    """Read back from swap, by the whole machine."""
    throttled_count: int | None
    """Times that a core was slowed for its heat; None where the system does not tell."""
    cores_count: int
    capacity_cores: float
    """How many cores' worth of work got done at once, by hashing on all of them: fewer where a quota or a neighbour
    takes its part."""
    gpu: GpuConditions | None = field(default=None, metadata=OMITTED)
    """The GPU's; None where the measured device is none."""


class Watch:
    """From its making until ``stop``."""

    def __init__(self, cores_count: int, where: Device = HOST) -> None:
        self._cores_count = cores_count
        self._capacity_cores = capacity(cores_count)
        self._load = os.getloadavg()[0]
        self._process = psutil.Process()
        self._gpu = None if (board := where.board()) is None else GpuWatch(board)
        self._before = self._reading()

    def look(self) -> None:
        """Note the GPU's clocks, while they are still those of the work just done."""
        if self._gpu is not None:
            self._gpu.look()

    def stop(self) -> Conditions:
        """What has happened since."""
        before, after = self._before, self._reading()
        spent = {name: after[name] - before[name] for name in after if after[name] is not None}
        whole = max(spent["whole"], 1e-9)
        return Conditions(
            steal_share=spent["steal"] / whole if "steal" in spent else None,
            foreign_share=max(0.0, spent["busy"] - spent["own"]) / whole,
            load_before=self._load,
            involuntary_switches_count=int(spent["switches"]),
            swapped_bytes=int(spent["swapped"]),
            throttled_count=int(spent["throttled"]) if "throttled" in spent else None,
            cores_count=self._cores_count,
            capacity_cores=self._capacity_cores,
            gpu=self._gpu.stop() if self._gpu else None,
        )

    def _reading(self) -> dict[str, Any]:
        times, own = psutil.cpu_times(), self._process.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        steal = getattr(times, "steal", None)
        twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # Linux counts it as user time too
        whole = sum(times) - twice
        return {
            "whole": whole,
            "busy": whole - idle - (steal or 0.0),
            "steal": steal,
            "own": own.user + own.system + getattr(own, "children_user", 0.0) + getattr(own, "children_system", 0.0),
            "switches": self._process.num_ctx_switches().involuntary,
            "swapped": psutil.swap_memory().sin,
            "throttled": _throttled_count(),
        }


@dataclass(frozen=True, kw_only=True)
class ConditionWarning:
    """Something about the machine that makes figures doubtful."""

    kind: Literal["steal", "foreign", "capacity", "throttled", "swapped", "gpu-throttled", "gpu-shared", "gpu-unread"]
    severity: float
    """The larger the worse, within a kind."""
    message: str
    """The number, the threshold, what to do."""


def warnings(conditions: Conditions) -> list[ConditionWarning]:
    """What of the conditions makes the figures doubtful."""
    doubts = []
    steal, foreign, capacity_cores = conditions.steal_share, conditions.foreign_share, conditions.capacity_cores
    if steal is not None and steal > _STEAL_SHARE:
        message = (
            f"the hypervisor gave {steal:.1%} of the time to others (more than {_STEAL_SHARE:.0%}): "
            "measure on a dedicated machine, or at another hour"
        )
        doubts.append(ConditionWarning(kind="steal", severity=steal, message=message))
    if foreign > _FOREIGN_SHARE:
        message = f"other processes used {foreign:.0%} of the cores (more than {_FOREIGN_SHARE:.0%}): stop them"
        doubts.append(ConditionWarning(kind="foreign", severity=foreign, message=message))
    if capacity_cores < _CAPACITY_SHARE * conditions.cores_count:
        message = (
            f"{conditions.cores_count} cores did the work of {capacity_cores:.1f} (less than {_CAPACITY_SHARE:.0%}): "
            "a quota or a neighbour takes part of them; ask for whole cores, or measure with fewer threads"
        )
        doubts.append(ConditionWarning(kind="capacity", severity=-capacity_cores, message=message))
    if throttled := conditions.throttled_count:
        message = f"cores were slowed for heat {throttled} times (more than 0): let the machine cool down"
        doubts.append(ConditionWarning(kind="throttled", severity=throttled, message=message))
    if swapped := conditions.swapped_bytes:
        message = f"{swapped >> 10} KiB came back from swap (more than 0): free memory"
        doubts.append(ConditionWarning(kind="swapped", severity=swapped, message=message))
    return [*doubts, *(_gpu_warnings(conditions.gpu) if conditions.gpu else ())]


def _gpu_warnings(gpu: GpuConditions) -> Iterator[ConditionWarning]:
    if slowed_by := gpu.slowed_by:
        clocks_mhz = (gpu.sm_clock_start_mhz, gpu.sm_clock_end_mhz, gpu.sm_clock_highest_mhz)
        start, end, highest = ("unknown" if mhz is None else f"{mhz} MHz" for mhz in clocks_mhz)
        message = (
            f"the GPU was slowed by {' and '.join(slowed_by)} (clock {start} at the start, {end} at the end, at best "
            f"{highest}): let it cool down, or fix its clocks at what it can hold"
        )
        yield ConditionWarning(kind="gpu-throttled", severity=len(slowed_by), message=message)
    if count := gpu.foreign_processes_count:
        held = "an unknown part" if gpu.foreign_bytes is None else f"{gpu.foreign_bytes >> 20} MiB"
        message = f"{count} other processes were on the GPU, with {held} of its memory (more than 0): stop them"
        yield ConditionWarning(kind="gpu-shared", severity=count, message=message)
    if gpu.unread is not None:
        message = f"the GPU's clocks, throttling, energy, memory and other processes were not read: {gpu.unread}"
        yield ConditionWarning(kind="gpu-unread", severity=0.0, message=message)


def capacity(cores_count: int) -> float:
    """Work done at once by all cores, in that of one alone: hashing, which holds no lock and needs no memory."""
    block = bytes(_HASHED_BYTES)

    def work(_: int) -> float:
        started = now_s()
        hashlib.sha256(block).digest()
        return now_s() - started

    alone_s = min(work(0) for _ in range(3))
    with ThreadPoolExecutor(cores_count) as pool:
        list(pool.map(work, range(cores_count)))  # its threads are started
        together_s = min(_elapsed(pool, work, cores_count) for _ in range(3))
    return min(float(cores_count), cores_count * alone_s / together_s)


def _elapsed(pool: ThreadPoolExecutor, work: Any, cores_count: int) -> float:
    started = now_s()
    list(pool.map(work, range(cores_count)))
    return now_s() - started


def _throttled_count() -> int | None:
    files = list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    return sum(int(file.read_text()) for file in files) if files else None
