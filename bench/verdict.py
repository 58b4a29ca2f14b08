"""Judgement: which artifacts may ship, which is the fastest of them, and why.

An artifact is shippable if its parity passes (``no-reference`` only if the recipe allows it) and no stated limit fails.
Only source-free artifacts can win. The fastest is the one with the smallest geometric mean of its times over the batch
sizes, compared in pairs per process; those not shown to be slower than it are tied with it, and of tied ones the
simplest to deploy is taken.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from bench.measure import Measurement
from bench.parity.report import ParityReport, ParityStatus
from bench.stats import Comparison, Ratio, mean_ratio, median_s, paired_ratio, word
from export.artifact import Artifact
from export.record import Observed, Record, digest, observed

BASELINE = "eager"
SIMPLEST_FIRST = ("onnx", "aotinductor", "torchscript", "exported", "compile")
"""Of tied artifacts the first of these wins: ONNX needs one small runtime, ``compile`` all of PyTorch."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a recipe requires before anything ships."""

    max_median_ms: float | None = None
    """Largest median latency per call, at ``batch_rows``."""
    batch_rows: int = 1
    min_metrics: dict[str, float] = field(default_factory=dict)
    """Smallest allowed metric of the checkpoint, by name."""

    def __post_init__(self) -> None:
        if self.max_median_ms is not None and self.max_median_ms <= 0:
            raise ValueError(f"limits.max_median_ms must be > 0, got {self.max_median_ms}")
        if self.batch_rows < 1:
            raise ValueError(f"limits.batch_rows must be >= 1, got {self.batch_rows}")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One artifact at one batch size."""

    batch_rows: int
    median_s: float
    rows_per_s: float
    ratio_to_eager: Ratio | None
    """Its time over eager's; None for eager itself, or where eager was not measured with it."""
    word: Comparison | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """Everything about one requested backend, good or not."""

    name: str
    required: bool
    shippable: bool
    built: bool
    parity: ParityStatus | None
    """None if it was not built."""
    reasons: tuple[str, ...]
    """Why it is not shippable, or cannot win; empty if it is and can."""
    log: str | None
    """Of the step that failed, relative to the run."""
    reproduce: str | None
    size_bytes: int | None
    build_s: float | None
    worst_ratio: float | None
    """Largest error as a multiple of eager float32's."""
    speeds: tuple[Speed, ...]
    artifact_sha256: str | None
    parity_sha256: str | None
    measurement_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Verdict(Record):
    """The end of a run."""

    SCHEMA: ClassVar[str] = "torchstone.verdict/1"

    key: str
    recipe: str
    good: bool
    """Whether every required backend is shippable and every limit holds."""
    winner: str | None
    tied: tuple[str, ...]
    """Those not shown to be slower than the fastest, the winner among them; empty without a tie."""
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    limits: Limits
    metrics: dict[str, float]
    observed: Observed


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A step of one backend that did not end well."""

    step: str
    cause: str
    log: str | None = None
    reproduce: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of one requested backend when judgement begins."""

    name: str
    backend: str
    required: bool
    artifact: Artifact | None = None
    parity: ParityReport | None = None
    measurement: Measurement | None = None
    failure: Failure | None = None


def weigh(
    key: str,
    recipe: str,
    evidence: Sequence[Evidence],
    limits: Limits,
    metrics: Mapping[str, float],
    *,
    allow_no_reference: bool,
) -> Verdict:
    """Weigh all evidence of a run."""
    eager = next((one.measurement for one in evidence if one.backend == BASELINE), None)
    rows = tuple(_row(one, eager, limits, allow_no_reference) for one in evidence)
    broken = [
        f"{name} is {metrics.get(name, math.nan):.4g}, at least {least:g} is required"
        for name, least in limits.min_metrics.items()
        if not metrics.get(name, math.nan) >= least
    ]
    able = {row.name for row in rows if row.shippable and row.speeds}
    candidates = {
        one.name: one.measurement
        for one in evidence
        if one.name in able and one.measurement and one.artifact and one.artifact.source_free
    }
    backends = {one.name: one.backend for one in evidence}
    winner, tied, reasons = (
        _winner(candidates, backends) if candidates and not broken else (None, (), ("nothing may ship",))
    )
    missing = [
        f"{row.name} is required: {'; '.join(row.reasons)}" for row in rows if row.required and not row.shippable
    ]
    return Verdict(
        key=key,
        recipe=recipe,
        good=not broken and not missing and winner is not None,
        winner=winner,
        tied=tied,
        reasons=(*broken, *reasons, *missing, *_left_out(evidence)),
        rows=rows,
        limits=limits,
        metrics=dict(metrics),
        observed=observed(0.0),
    )


def _left_out(evidence: Sequence[Evidence]) -> list[str]:
    """Batch sizes that were asked for and not measured, with the reason."""
    told = {rows: reason for one in evidence if one.measurement for rows, reason in one.measurement.left_out.items()}
    return [f"batch {rows} was left out: {reason}" for rows, reason in told.items()]


def _row(one: Evidence, eager: Measurement | None, limits: Limits, allow_no_reference: bool) -> Row:
    speeds = _speeds(one.measurement, eager if one.backend != BASELINE else None) if one.measurement else ()
    reasons = []
    if one.failure:
        reasons.append(f"{one.failure.step}: {one.failure.cause}")
    status = one.parity.status if one.parity else None
    if one.parity and status != "pass" and not (status == "no-reference" and allow_no_reference):
        reasons += [f"parity {status}: {reason}" for reason in one.parity.reasons]
    if one.parity and one.measurement and one.parity.options != one.measurement.options:
        reasons.append(f"measured otherwise than it was proved: {one.measurement.options}, not {one.parity.options}")
    if (limits.max_median_ms is not None and one.measurement) and (
        late := _too_slow(speeds, limits.max_median_ms, limits.batch_rows)
    ):
        reasons.append(late)
    if one.artifact and not one.artifact.source_free:
        reasons.append("needs the model's source: the baseline, never ships")
    return Row(
        name=one.name,
        required=one.required,
        shippable=one.parity is not None and not reasons,
        built=one.artifact is not None,
        parity=status,
        reasons=tuple(reasons),
        log=one.failure.log if one.failure else None,
        reproduce=one.failure.reproduce if one.failure else None,
        size_bytes=one.artifact.size_bytes if one.artifact else None,
        build_s=one.artifact.observed.duration_s if one.artifact else None,
        worst_ratio=one.parity.worst_ratio if one.parity else None,
        speeds=speeds,
        artifact_sha256=digest(one.artifact) if one.artifact else None,
        parity_sha256=digest(one.parity) if one.parity else None,
        measurement_sha256=digest(one.measurement) if one.measurement else None,
    )


def _speeds(measurement: Measurement, eager: Measurement | None) -> tuple[Speed, ...]:
    comparable = eager is not None and eager.session == measurement.session and eager.key == measurement.key
    speeds = []
    for rows, samples in _by_batch(measurement).items():
        typical_s = median_s(samples)
        ratio = paired_ratio(samples, _by_batch(eager)[rows]) if comparable and eager else None
        speeds.append(
            Speed(
                batch_rows=rows,
                median_s=typical_s,
                rows_per_s=rows / typical_s,
                ratio_to_eager=ratio,
                word=word(ratio, measurement.spec.tie_ratio) if ratio else None,
            )
        )
    return tuple(speeds)


def _too_slow(speeds: Sequence[Speed], max_median_ms: float, batch_rows: int) -> str | None:
    speed = next((speed for speed in speeds if speed.batch_rows == batch_rows), None)
    if speed is None:
        return f"the limit at batch {batch_rows} was not measured: add it to bench.batch_rows"
    if speed.median_s * 1e3 <= max_median_ms:
        return None
    return f"median {speed.median_s * 1e3:.3g} ms at batch {batch_rows}, at most {max_median_ms:g} ms is allowed"


def _winner(
    candidates: Mapping[str, Measurement], backends: Mapping[str, str]
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The winner, those tied with it, and the reasons."""
    scores = {name: _log_times(measurement) for name, measurement in candidates.items()}
    fastest = min(scores, key=lambda name: statistics.mean(scores[name]))
    batches = ", ".join(str(rows) for rows in _by_batch(candidates[fastest]))
    if len(scores) == 1:
        return fastest, (), (f"{fastest} is the only artifact that may ship",)
    tie_ratio = candidates[fastest].spec.tie_ratio
    ratios = {
        name: mean_ratio([b - a for a, b in zip(scores[fastest], scores[name], strict=True)])
        for name in scores
        if name != fastest
    }
    tied = sorted(
        (name for name, ratio in ratios.items() if word(ratio, tie_ratio) != "slower"), key=lambda name: scores[name]
    )
    if not tied:
        second = min(ratios, key=lambda name: ratios[name].value)
        longer = f"the next, {second}, takes {_interval(ratios[second])} times as long"
        return fastest, (), (f"{fastest} is the fastest over batch {batches}: {longer}",)
    level = (fastest, *tied)
    winner = min(level, key=lambda name: SIMPLEST_FIRST.index(backends[name]))
    others = ", ".join(f"{name} {_interval(ratios[name])}" for name in tied)
    tie = f"a tie over batch {batches}: {', '.join(level)} ({others} times {fastest}'s time)"
    return winner, level, (f"{tie}; {winner} is the simplest to deploy",)


def _interval(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _log_times(measurement: Measurement) -> list[float]:
    """Per process, the mean over batch sizes of the log of its median time."""
    by_batch = list(_by_batch(measurement).values())
    return [
        statistics.mean(math.log(statistics.median(samples[process])) for samples in by_batch)
        for process in range(measurement.spec.processes_count)
    ]


def _by_batch(measurement: Measurement) -> dict[int, list[tuple[float, ...]]]:
    """Samples of each process, by batch size."""
    table: dict[int, list[tuple[float, ...]]] = {}
    for samples in sorted(measurement.samples, key=lambda one: (one.batch_rows, one.process)):
        table.setdefault(samples.batch_rows, []).append(samples.samples_s)
    return table
