"""The report's figures about time: latency in detail, cold starts and memory, several callers."""

from __future__ import annotations

from dataclasses import dataclass

from bench.stats.effects import Effect
from bench.verdict.figures import ConcurrencyFigures, Speed
from bench.verdict.judge import Row, Verdict
from pipeline.report import numbers

_SHARES = (0.5, 0.9, 0.99)
_ARITHMETIC = ("precision", "float32_products", "weights", "kept_float32", "why_slow")
"""What the runtime, and the artifact's own files, say of the arithmetic, by the names in ``Row.effective``."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure as a person reads it."""

    text: str
    hover: str | None = None
    """What is shown when the pointer rests on it."""


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One artifact at one batch size."""

    name: str
    batch_rows: int
    bound: str
    checked: str
    percentiles: tuple[Figure, ...]
    """p50, p90, p99 of single calls."""
    to_eager: Figure
    comparison: str
    """What may be said of the ratio to eager."""
    other_threads: str
    floor: str
    efficiency: str


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """What the harness adds to a call, in nanoseconds."""

    in_block_ns: str
    alone_ns: str


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The section about latency."""

    passed_over: tuple[Row, ...]
    """Artifacts that may ship and did not win."""
    rows: tuple[LatencyRow, ...]
    overhead: Overhead | None


@dataclass(frozen=True, kw_only=True)
class CostsRow:
    """One artifact: how it runs, and what it costs beside the time of a call."""

    name: str
    runs_as: str
    durations: tuple[str, ...]
    """The parts of a cold start: start, import, load, first call, in all."""
    sizes: tuple[str, ...]
    """Resident memory: at the first answer, at its peak."""
    rates: tuple[str, ...]
    """One per load in ``Costs.loads``."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The section about cold starts, memory and several callers."""

    loads: tuple[tuple[int, int], ...]
    """Rows per batch and number of callers, of everything that was measured with several callers."""
    rows: tuple[CostsRow, ...]


def prepare_latency(verdict: Verdict) -> Latency | None:
    """Every measured artifact at every batch size; None if nothing was measured."""
    rows = tuple(_latency_row(row.name, speed) for row in verdict.rows for speed in row.speeds)
    if not rows:
        return None
    passed_over = tuple(row for row in verdict.rows if row.why_not)
    return Latency(passed_over=passed_over, rows=rows, overhead=_overhead(verdict))


def prepare_costs(verdict: Verdict) -> Costs | None:
    """Every measured artifact; None if no cold start was measured."""
    measured = [row for row in verdict.rows if row.speeds]
    if not any(row.cold for row in measured):
        return None
    loads = {(figures.batch_rows, figures.callers_count) for row in measured for figures in row.concurrency}
    in_order = tuple(sorted(loads))
    return Costs(loads=in_order, rows=tuple(_costs_row(row, in_order) for row in measured))


def _overhead(verdict: Verdict) -> Overhead | None:
    if verdict.empty_block_s is None or verdict.empty_call_s is None:
        return None
    return Overhead(in_block_ns=f"{verdict.empty_block_s * 1e9:.0f}", alone_ns=f"{verdict.empty_call_s * 1e9:.0f}")


def _latency_row(name: str, speed: Speed) -> LatencyRow:
    threads = ", ".join(f"{count}: {numbers.seconds(median_s)}" for count, median_s in speed.at_threads.items())
    return LatencyRow(
        name=name,
        batch_rows=speed.batch_rows,
        bound=numbers.seconds(speed.median_s if speed.spoilt is None else None),
        checked=numbers.seconds(speed.checked_s if speed.spoilt is None else None),
        percentiles=tuple(_percentile(speed, share) for share in _SHARES),
        to_eager=_ratio(speed.to_eager),
        comparison=_comparison(speed),
        other_threads=threads or "-",
        floor=numbers.seconds(speed.least_s),
        efficiency=""
        if speed.efficiency is None or speed.spoilt is not None
        else f"{numbers.share(speed.efficiency)} of it, {speed.binds}",
    )


def _percentile(speed: Speed, share: float) -> Figure:
    """With its interval on hover; a dash where the sample supports none, or is not its own."""
    percentile = next((percentile for percentile in speed.percentiles if percentile.share == share), None)
    if percentile is None or speed.spoilt is not None:
        return Figure(text="-")
    interval = f"{numbers.seconds(percentile.low_s)} to {numbers.seconds(percentile.high_s)}"
    return Figure(text=numbers.seconds(percentile.value_s), hover=interval)


def _ratio(effect: Effect | None) -> Figure:
    if effect is None:
        return Figure(text="-")
    return Figure(
        text=f"{effect.ratio.spelled(3)} ±{numbers.share(effect.noise_ratio)}",
        hover=f"so many processes show a difference of {numbers.share(effect.detectable_ratio)} four times out of five",
    )


def _comparison(speed: Speed) -> str:
    if speed.spoilt is not None:
        return speed.spoilt
    if not speed.settled:
        return "no steady state"
    if speed.to_eager is None:
        return ""
    effect = speed.to_eager
    if effect.comparison != "inconclusive":
        return effect.comparison
    needs = f"about {effect.needs_processes_count} processes" if effect.needs_processes_count else "less noise"
    return f"inconclusive: needs {needs}"


def _costs_row(row: Row, loads: tuple[tuple[int, int], ...]) -> CostsRow:
    cold = row.cold
    durations_s = (cold.start_s, cold.import_s, cold.load_s, cold.first_call_s, cold.total_s) if cold else (None,) * 5
    sizes_bytes = (cold.first_bytes, cold.peak_bytes) if cold else (None, None)
    by_load = {(figures.batch_rows, figures.callers_count): figures for figures in row.concurrency}
    threads = [f"{row.options.threads_count} threads"] if row.options else []
    arithmetic = [f"{name.replace('_', ' ')} {value}" for name, value in row.effective.items() if name in _ARITHMETIC]
    return CostsRow(
        name=row.name,
        runs_as=", ".join(threads + arithmetic),
        durations=tuple(map(numbers.seconds, durations_s)),
        sizes=tuple(map(numbers.size, sizes_bytes)),
        rates=tuple(_rate(by_load.get(load)) for load in loads),
    )


def _rate(figures: ConcurrencyFigures | None) -> str:
    return "-" if figures is None else f"{figures.rows_per_s:,.0f} rows/s, p50 {numbers.seconds(figures.p50_s)}"
