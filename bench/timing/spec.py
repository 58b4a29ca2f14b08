"""How measuring is done: the settings of the benchmark stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.timing.concurrency import CallersTime

_PROCESSES = {"quick": 3, "standard": 10, "claim": 20}


@dataclass(frozen=True, kw_only=True)
class BenchSpec:
    """How latency, throughput and what else a deployment costs are measured."""

    depth: Literal["quick", "standard", "claim"] = "quick"
    """3, 10 or 20 fresh processes: a look, a comparison, a claim (differences of 3-5 %, 1.3 % and 0.9 %)."""
    processes_count: int | None = None
    """Fresh processes, the unit of the statistics; None: by depth."""
    batch_rows: tuple[int, ...] = (1, 32, 1024)
    """Rows per call; sizes outside the declared range are left out."""
    threads: tuple[int, ...] | None = None
    """Thread counts measured besides the one that was proved; None: one, and all cores."""
    rounds_count: int = 20
    """Rounds per process and batch size; in each every candidate is timed once. But for ``claim`` 10 are enough where
    medians are then exact to half of ``tie_ratio``; half as many again are timed where others took cores."""
    min_rounds_count: int = 5
    round_budget_s: float = 3.0
    """Time for all rounds of one batch size in one process; slow models get fewer rounds, never below the minimum."""
    block_s: float = 0.002
    """A sample lasts at least this long: as many calls as that takes."""
    warmup_s: float = 0.05
    """Warm-up lasts at least so long, and at least so many calls, but no longer than ``warmup_limit_s``."""
    warmup_calls_count: int = 5
    warmup_limit_s: float = 1.0
    call_limit_s: float = 1.0
    """A batch size, but the smallest, at which one call of a candidate lasts longer is left out, and said to be."""
    calls_count: int = 1000
    """Single calls timed per candidate and batch size, over all processes, for percentiles; fewer where slow."""
    callers: tuple[int, ...] = (1, 4)
    """How many callers share a runner, for throughput under concurrency."""
    callers_rows: int | None = None
    """Rows per call of theirs, one of ``batch_rows``; None: the smallest."""
    callers_s: float = 0.1
    """How long they call, per candidate and process; but for ``claim`` two fifths where all had a thousand answers."""
    cold_starts_count: int | None = None
    """Fresh processes from nothing to the first answer, per artifact; None: 1, 5 or 10, by depth."""
    tie_ratio: float = 0.02
    """Differences below this share are called the same."""

    @property
    def processes(self) -> int:
        """Fresh processes."""
        return self.processes_count or _PROCESSES[self.depth]

    @property
    def largest_round_error(self) -> float | None:
        """The standard error of medians within a process at which rounds end early, a share; None: they never do."""
        return None if self.depth == "claim" else self.tie_ratio / 2

    @property
    def callers_time(self) -> CallersTime:
        """How long callers call."""
        return CallersTime(least_s=self.callers_s * (1.0 if self.depth == "claim" else 0.4), most_s=self.callers_s)

    def flags_for(self, processes_count: int) -> str:
        """The flags of a run that measures in about so many fresh processes, and in more than this."""
        enough = max(processes_count, self.processes + 1)
        depth = next((depth for depth, count in _PROCESSES.items() if count >= enough), None)
        if self.processes_count is not None or depth is None:  # a count that is given goes before the depth
            return f"--bench.processes-count {enough}"
        return f"--bench.depth {depth}"

    @property
    def cold_starts(self) -> int:
        """Cold starts per artifact."""
        return max(1, self.processes // 2) if self.cold_starts_count is None else self.cold_starts_count

    def __post_init__(self) -> None:
        if not self.batch_rows or min(self.batch_rows) < 1:
            raise ValueError(f"bench.batch_rows must be sizes >= 1, got {self.batch_rows}")
        if self.processes_count is not None and self.processes_count < 2:
            raise ValueError(f"bench.processes_count must be >= 2 (one has no spread), got {self.processes_count}")
        if not 1 <= self.min_rounds_count <= self.rounds_count:
            raise ValueError(
                "bench must have 1 <= min_rounds_count <= rounds_count, "
                f"got {self.min_rounds_count} and {self.rounds_count}"
            )
        durations = (self.block_s, self.round_budget_s, self.call_limit_s, self.callers_s)
        if min(durations) <= 0 or self.warmup_s < 0 or not 0 <= self.tie_ratio < 1:
            raise ValueError("bench durations must be > 0 and tie_ratio must lie in [0, 1)")
        if min((*self.callers, *(self.threads or ()), 1)) < 1:
            raise ValueError(f"bench.callers and bench.threads must be >= 1, got {self.callers} and {self.threads}")
        if min(self.calls_count, self.cold_starts_count or 0) < 0:
            raise ValueError(
                "bench.calls_count and bench.cold_starts_count must be >= 0, "
                f"got {self.calls_count} and {self.cold_starts_count}"
            )
