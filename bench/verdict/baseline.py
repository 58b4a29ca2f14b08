"""What is said of a winner that eager matches or beats, and of times that a neighbour spoilt.

Whoever reads the end of a run must not take either for faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.stats.effects import Comparison
from bench.timing.spec import BenchSpec
from bench.verdict.figures import Figures, Speed

_SUMMARIES: dict[Comparison, str] = {
    "slower": "is slower than eager",
    "same": "is as fast as eager",
    "inconclusive": "is not shown to be faster than eager",
}


def slower_than_eager(speeds: Sequence[Speed]) -> tuple[int, ...]:
    """The batch sizes, in rows, at which an artifact was shown to be slower than eager."""
    return tuple(speed.batch_rows for speed in speeds if speed.to_eager and speed.to_eager.comparison == "slower")


def remarks_on_eager(winner: str, speeds: Sequence[Speed], spec: BenchSpec) -> list[str]:
    """A sentence on the batch sizes where the winner is slower than eager, as fast, or not shown to be faster."""
    return [
        _remark(f"{winner} wins and {summary}", alike, spec)
        for comparison, summary in _SUMMARIES.items()
        if (alike := [speed for speed in speeds if speed.to_eager and speed.to_eager.comparison == comparison])
    ]


def _remark(summary: str, speeds: Sequence[Speed], spec: BenchSpec) -> str:
    effects = [speed.to_eager for speed in speeds if speed.to_eager is not None]
    batches = ", ".join(str(speed.batch_rows) for speed in speeds)
    ratios = ", ".join(effect.ratio.spelled() for effect in effects)
    needed = [effect.needs_processes_count for effect in effects if effect.needs_processes_count is not None]
    remedy = f"; run again with {spec.flags_for(max(needed))}" if needed else ""
    return f"{summary} at batch {batches}: it takes {ratios} times eager's time{remedy}"


def not_compared(measured: Mapping[str, Figures]) -> list[str]:
    """One sentence on those artifacts whose times are not their own; none if there are none."""
    places = [
        f"{name} at batch {speed.batch_rows} ({speed.spoilt})"
        for name, figures in measured.items()
        for speed in figures.speeds
        if speed.spoilt is not None
    ]
    remedy = "stop what else runs and measure again"
    return [f"no time is stated or compared where others took cores: {', '.join(places)}: {remedy}"] if places else []
