"""Judgement: which artifacts may ship, which is the best of them, and why.

An artifact is shippable if its parity passes (``no-reference`` only if the recipe allows it) and no stated limit fails.
Only source-free artifacts can win. Who wins among them is ``bench/verdict/ranking.py``'s.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from bench.parity.report import ParityReport, ParityStatus
from bench.timing.conditions import warnings
from bench.timing.measurement import Measurement, SessionRecord
from bench.verdict.figures import ColdFigures, ConcurrencyFigures, Figures, Rounds, Speed, figures
from bench.verdict.limits import Limits
from bench.verdict.ranking import Choice, Eligible, choose
from export import backend as backends
from export.artifact import Artifact
from export.backend import LoadOptions
from export.record import Observed, Record, digest, observed

BASELINE = "eager"


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
    options: LoadOptions | None
    """The settings that it was proved and measured with."""
    effective: dict[str, str]
    """What the runtime said it really used: precision, providers, threads."""
    speeds: tuple[Speed, ...]
    concurrency: tuple[ConcurrencyFigures, ...]
    cold: ColdFigures | None
    on_pareto_front: bool
    """Whether no other artifact that may ship beats it in time, peak memory, cold start and size at once."""
    why_not: str | None
    """Why it did not win, though it may ship."""
    artifact_sha256: str | None
    parity_sha256: str | None
    measurement_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Verdict(Record):
    """The end of a run."""

    SCHEMA: ClassVar[str] = "torchstone.verdict/2"

    key: str
    recipe: str
    good: bool
    """Whether every required backend is shippable and every limit holds."""
    winner: str | None
    tied: tuple[str, ...]
    """Those not shown to be slower than the fastest, the winner among them; empty without a tie."""
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    """What made the machine's figures doubtful."""
    session_sha256: str | None
    empty_block_s: float | None
    """What the harness adds to a call timed in a block; None if nothing was measured."""
    empty_call_s: float | None
    """The same for a call timed alone."""
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


def judge_evidence(
    key: str,
    recipe: str,
    evidence: Sequence[Evidence],
    session: SessionRecord | None,
    limits: Limits,
    metrics: Mapping[str, float],
    *,
    allow_no_reference: bool,
) -> Verdict:
    """Weigh all evidence of a run; ``session`` is what its measurements share."""
    measurements = {one.name: one.measurement for one in evidence if one.measurement}
    baseline = next((one.name for one in evidence if one.backend == BASELINE), None)
    rounds = Rounds(session, measurements) if session else None
    found = figures(rounds, baseline) if rounds else {}
    reasons = {
        one.name: tuple(_reasons(one, found.get(one.name, Figures()), limits, allow_no_reference)) for one in evidence
    }
    broken = [
        f"{name} is {metrics.get(name, math.nan):.4g}, at least {least:g} is required"
        for name, least in limits.min_metrics.items()
        if not metrics.get(name, math.nan) >= least
    ]
    eligible = {
        one.name: Eligible(
            backend=one.backend,
            figures=found[one.name],
            size_bytes=one.artifact.size_bytes,
        )
        for one in evidence
        if one.measurement and one.artifact and one.artifact.source_free and one.parity and not reasons[one.name]
    }
    choice = choose(eligible, rounds) if eligible and rounds and not broken else None
    rows = tuple(_row(one, found.get(one.name, Figures()), reasons[one.name], choice) for one in evidence)
    missing = [
        f"{row.name} is required: {'; '.join(row.reasons)}" for row in rows if row.required and not row.shippable
    ]
    return Verdict(
        key=key,
        recipe=recipe,
        good=not broken and not missing and choice is not None,
        winner=choice.winner if choice else None,
        tied=choice.tied if choice else (),
        reasons=(*broken, choice.reason if choice else "nothing may ship", *missing, *_left_out(session)),
        rows=rows,
        warnings=_warnings(session),
        session_sha256=digest(session) if session else None,
        empty_block_s=statistics.median(session.empty_block_s) if session else None,
        empty_call_s=statistics.median(session.empty_call_s) if session else None,
        limits=limits,
        metrics=dict(metrics),
        observed=observed(0.0),
    )


def _left_out(session: SessionRecord | None) -> list[str]:
    """Batch sizes that were asked for and not measured, with the reason."""
    message = session.left_out if session else {}
    return [f"batch {rows} was left out: {reason}" for rows, reason in message.items()]


def _warnings(session: SessionRecord | None) -> tuple[str, ...]:
    """What was bad of the machine, each once, with the process that saw the most of it left to the record."""
    seen: dict[str, str] = {}
    for conditions in session.conditions if session else ():
        for message in warnings(conditions):
            seen.setdefault(message.partition("(")[2], message)
    if session is not None and session.roofline_failure is not None:
        seen["roofline"] = f"no roofline floor: {session.roofline_failure}"
    return tuple(seen.values())


def _reasons(one: Evidence, found: Figures, limits: Limits, allow_no_reference: bool) -> list[str]:
    """Why an artifact may not ship; none if it may."""
    reasons = []
    if one.failure:
        reasons.append(f"{one.failure.step}: {one.failure.cause}")
    status = one.parity.status if one.parity else None
    if one.parity and status != "pass" and not (status == "no-reference" and allow_no_reference):
        reasons += [f"parity {status}: {reason}" for reason in one.parity.reasons]
    if one.parity and one.measurement and one.parity.options != one.measurement.options:
        reasons.append(f"measured otherwise than it was proved: {one.measurement.options}, not {one.parity.options}")
    if one.measurement and one.artifact:
        device_bound = backends.get(one.backend).DEVICE_BOUND
        reasons += limits.broken_by(found, one.artifact.size_bytes, device_bound=device_bound)
        reasons += found.impossible
    if one.artifact and not one.artifact.source_free:
        reasons.append("needs the model's source: the baseline, never ships")
    return reasons


def _row(one: Evidence, found: Figures, reasons: tuple[str, ...], choice: Choice | None) -> Row:
    return Row(
        name=one.name,
        required=one.required,
        shippable=one.parity is not None and not reasons,
        built=one.artifact is not None,
        parity=one.parity.status if one.parity else None,
        reasons=reasons,
        log=one.failure.log if one.failure else None,
        reproduce=one.failure.reproduce if one.failure else None,
        size_bytes=one.artifact.size_bytes if one.artifact else None,
        build_s=one.artifact.observed.duration_s if one.artifact else None,
        worst_ratio=one.parity.worst_ratio if one.parity else None,
        options=one.parity.options if one.parity else None,
        effective=one.parity.witness.evidence if one.parity else {},
        speeds=found.speeds,
        concurrency=found.concurrency,
        cold=found.cold,
        on_pareto_front=choice is not None and one.name in choice.pareto_front,
        why_not=choice.why_not.get(one.name) if choice else None,
        artifact_sha256=digest(one.artifact) if one.artifact else None,
        parity_sha256=digest(one.parity) if one.parity else None,
        measurement_sha256=digest(one.measurement) if one.measurement else None,
    )
