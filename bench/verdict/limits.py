"""What a recipe requires of an artifact before it may ship."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # figures are made with torch, and a command's help shows the limits without it
    from bench.verdict.figures import Figures, Speed


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a recipe requires before anything ships; None: no limit."""

    max_median_ms: float | None = None
    """Largest median latency per call, at ``batch_rows``."""
    max_p99_ms: float | None = None
    """Largest 99th percentile of latency, at ``batch_rows`` with ``callers_count`` callers."""
    batch_rows: int = 1
    callers_count: int = 1
    max_memory_mb: float | None = None
    """Largest peak of resident memory of a process that holds the artifact alone, in MiB."""
    max_cold_start_s: float | None = None
    """Longest time from no process to the first answer (median)."""
    max_size_mb: float | None = None
    """Largest artifact, in MiB."""
    portable: bool = False
    """Whether the artifact must run on another machine than the one it was built for."""
    min_metrics: dict[str, float] = field(default_factory=dict)
    """Smallest allowed metric of the checkpoint, by name."""

    def __post_init__(self) -> None:
        for name in ("max_median_ms", "max_p99_ms", "max_memory_mb", "max_cold_start_s", "max_size_mb"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"limits.{name} must be > 0, got {value}")
        if min(self.batch_rows, self.callers_count) < 1:
            raise ValueError(
                "limits.batch_rows and limits.callers_count must be >= 1, "
                f"got {self.batch_rows} and {self.callers_count}"
            )

    def broken_by(self, figures: Figures, size_bytes: int, *, device_bound: bool) -> list[str]:
        """Why an artifact does not meet them; a figure that was not measured does not meet its limit."""
        cold = figures.cold
        return [
            *self._slow(figures),
            *_above("peak memory", _mib(cold.peak_bytes if cold else None), self.max_memory_mb, "MiB"),
            *_above("cold start", cold.total_s if cold else None, self.max_cold_start_s, "s"),
            *_above("size", _mib(size_bytes), self.max_size_mb, "MiB"),
            *(["runs only on machines like the one that built it"] if self.portable and device_bound else []),
        ]

    def broken_by_metrics(self, metrics: Mapping[str, float]) -> list[str]:
        """Metrics of a checkpoint that are too small; one that was not measured does not meet its limit."""
        return [
            f"{name} is {metrics.get(name, math.nan):.4g}, at least {least:g} is required"
            for name, least in self.min_metrics.items()
            if not metrics.get(name, math.nan) >= least
        ]

    def _slow(self, figures: Figures) -> Iterator[str]:
        if self.max_median_ms is not None:
            speed = next((speed for speed in figures.speeds if speed.batch_rows == self.batch_rows), None)
            if speed is None:
                yield f"the limit at batch {self.batch_rows} was not measured: add it to bench.batch_rows"
            else:
                yield from _above_unless_spoilt(speed, self.max_median_ms)
        if self.max_p99_ms is not None:
            yield from self._late(figures)

    def _late(self, figures: Figures) -> Iterator[str]:
        """Whether the 99th percentile holds, its whole interval below the limit."""
        where = f"batch {self.batch_rows} with {self.callers_count} callers"
        concurrent = next(
            (
                concurrent
                for concurrent in figures.concurrency
                if (concurrent.batch_rows, concurrent.callers_count) == (self.batch_rows, self.callers_count)
            ),
            None,
        )
        if concurrent is None:
            yield (
                f"p99 at {where} was not measured: set bench.callers_rows to {self.batch_rows} "
                f"and add {self.callers_count} to bench.callers"
            )
        elif concurrent.p99 is None:
            yield f"p99 at {where} needs at least 459 calls, there were {concurrent.calls_count}: raise bench.callers_s"
        else:
            yield from _above(
                f"p99 at {where} (upper end of its interval)", concurrent.p99.high_s * 1e3, self.max_p99_ms, "ms"
            )


def _mib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 2**20


def _above_unless_spoilt(speed: Speed, limit_ms: float) -> Iterator[str]:
    """Others only add to a time: what is below a limit beside them is below it alone."""
    what = f"median at batch {speed.batch_rows}"
    if speed.spoilt is not None and speed.median_s * 1e3 > limit_ms:
        yield f"{what} is not known ({speed.spoilt}), at most {limit_ms:g} ms is allowed"
    else:
        yield from _above(what, speed.median_s * 1e3, limit_ms, "ms")


def _above(what: str, value: float | None, limit: float | None, unit: str) -> Iterator[str]:
    if limit is None:
        return
    if value is None:
        yield f"{what} was not measured, at most {limit:g} {unit} is allowed"
    elif value > limit:
        yield f"{what} {value:.3g} {unit}, at most {limit:g} {unit} is allowed"
