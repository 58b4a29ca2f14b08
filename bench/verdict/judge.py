"""Judgement: which artifacts may ship, which is the best of them, and why.

An artifact is shippable if its parity passes (``no-reference`` only if the recipe allows it) and no stated limit fails.
Only source-free artifacts can win. Who wins among them is ``bench/verdict/ranking.py``'s.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from bench.parity.report import ParityReport, ParityStatus
from bench.timing.conditions import ConditionWarning, warnings
from bench.timing.measurement import Measurement, SessionRecord
from bench.verdict.baseline import not_compared, remarks_on_eager
from bench.verdict.figures import ColdFigures, ConcurrencyFigures, Figures, Rounds, Speed, figures
from bench.verdict.limits import Limits
from bench.verdict.ranking import Eligible, Ranking, rank
from bench.verdict.servable import not_servable
from export import registry
from export.artifact import Artifact
from export.backend import LoadOptions
from export.record import OMITTED, Observed, Record, digest, observed
from export.registry import BASELINE


@dataclass(frozen=True, kw_only=True)
class Row:
    """Everything about one requested backend, good or not."""

    name: str
    backend: str | None = field(default=None, metadata=OMITTED)
    """Where the name does not say it: that which runs a foreign file."""
    required: bool
    shippable: bool
    built: bool
    parity: ParityStatus | None
    """None if it was not built."""
    reasons: tuple[str, ...]
    """Why it is not shippable, or cannot win; empty if it is and can."""
    log: str | None
    """The log of the step that failed, relative to the run."""
    reproduce: str | None
    size_bytes: int | None
    build_s: float | None
    worst_ratio: float | None
    """Largest error as a multiple of eager float32's."""
    options: LoadOptions | None
    """The settings that it passed parity and was measured with."""
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

    @property
    def missing(self) -> str | None:
        """Why the whole run is not good, of a required row that may not ship; None of others."""
        return f"{self.name} is required: {'; '.join(self.reasons)}" if self.required and not self.shippable else None


@dataclass(frozen=True, kw_only=True)
class Verdict(Record):
    """The end of a run."""

    SCHEMA: ClassVar[str] = "torchstone.verdict/3"

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


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a recipe holds its artifacts to."""

    limits: Limits
    metrics: Mapping[str, float]
    """The checkpoint's, by name."""
    allow_no_reference: bool
    """Whether a model without a float64 answer may ship."""


def judge(
    key: str, recipe: str, all_evidence: Sequence[Evidence], session: SessionRecord | None, required: Requirements
) -> Verdict:
    """Judge all evidence of a run; ``session`` is what its measurements share."""
    measurements = {evidence.name: evidence.measurement for evidence in all_evidence if evidence.measurement}
    baseline = next((evidence.name for evidence in all_evidence if evidence.backend == BASELINE), None)
    rounds = Rounds(session, measurements) if session else None
    measured = figures(rounds, baseline) if rounds else {}
    reasons = {
        evidence.name: tuple(_reasons(evidence, measured.get(evidence.name, Figures()), required))
        for evidence in all_evidence
    }
    broken = required.limits.broken_by_metrics(required.metrics)
    eligible = {
        evidence.name: Eligible(
            deployment_rank=registry.get(evidence.backend).deployment_rank,
            figures=measured[evidence.name],
            size_bytes=evidence.artifact.size_bytes,
        )
        for evidence in all_evidence
        if evidence.measurement
        and evidence.artifact
        and evidence.artifact.source_free
        and evidence.parity
        and not reasons[evidence.name]
    }
    ranking = rank(eligible, rounds) if eligible and rounds and not broken else None
    rows = tuple(
        _row(evidence, measured.get(evidence.name, Figures()), reasons[evidence.name], ranking)
        for evidence in all_evidence
    )
    left_out = [f"batch {rows} was left out: {why}" for rows, why in (session.left_out if session else {}).items()]
    beside_eager = (
        remarks_on_eager(ranking.winner, measured[ranking.winner].speeds, session.spec) if ranking and session else ()
    )
    missing = [row.missing for row in rows if row.missing is not None]
    besides = (*beside_eager, *not_compared(measured), *missing, *left_out)
    return Verdict(
        key=key,
        recipe=recipe,
        good=not broken and not missing and ranking is not None,
        winner=ranking.winner if ranking else None,
        tied=ranking.tied if ranking else (),
        reasons=(*broken, ranking.reason if ranking else "nothing may ship", *besides),
        rows=rows,
        warnings=_warnings(session),
        session_sha256=digest(session) if session else None,
        empty_block_s=statistics.median(session.empty_block_s) if session else None,
        empty_call_s=statistics.median(session.empty_call_s) if session else None,
        limits=required.limits,
        metrics=dict(required.metrics),
        observed=observed(0.0),
    )


def _warnings(session: SessionRecord | None) -> tuple[str, ...]:
    """What was bad of the machine, each kind once, as the process saw it that saw the most of it."""
    if session is None:
        return ()
    worst: dict[str, ConditionWarning] = {}
    for conditions in session.conditions:
        for warning in warnings(conditions):
            if warning.kind not in worst or warning.severity > worst[warning.kind].severity:
                worst[warning.kind] = warning
    messages = [warning.message for warning in worst.values()]
    if session.roofline_failure is not None:
        messages.append(f"no roofline floor: {session.roofline_failure}")
    return tuple(messages)


def _reasons(evidence: Evidence, measured: Figures, required: Requirements) -> list[str]:
    """Why an artifact may not ship; none if it may."""
    reasons = []
    if evidence.failure:
        reasons.append(f"{evidence.failure.step}: {evidence.failure.cause}")
    status = evidence.parity.status if evidence.parity else None
    if evidence.parity and status != "pass" and not (status == "no-reference" and required.allow_no_reference):
        reasons += [f"parity {status}: {reason}" for reason in evidence.parity.reasons]
    if evidence.parity and evidence.measurement and evidence.parity.options != evidence.measurement.options:
        measured_with, tested_with = evidence.measurement.options.summary, evidence.parity.options.summary
        reasons.append(f"measured with {measured_with}, but its parity was tested with {tested_with}")
    if evidence.measurement and evidence.artifact:
        device_bound = registry.get(evidence.backend).device_bound
        reasons += required.limits.broken_by(measured, evidence.artifact.size_bytes, device_bound=device_bound)
        reasons += measured.impossible
    if evidence.artifact and not evidence.artifact.source_free:
        reasons.append("needs the model's source: the baseline, never ships")
    elif evidence.artifact:
        reasons += not_servable(evidence.artifact.signature)
    return reasons


def _row(evidence: Evidence, measured: Figures, reasons: tuple[str, ...], ranking: Ranking | None) -> Row:
    return Row(
        name=evidence.name,
        backend=evidence.backend if evidence.artifact and evidence.artifact.is_foreign else None,
        required=evidence.required,
        shippable=evidence.parity is not None and not reasons,
        built=evidence.artifact is not None,
        parity=evidence.parity.status if evidence.parity else None,
        reasons=reasons,
        log=evidence.failure.log if evidence.failure else None,
        reproduce=evidence.failure.reproduce if evidence.failure else None,
        size_bytes=evidence.artifact.size_bytes if evidence.artifact else None,
        build_s=evidence.artifact.observed.duration_s if evidence.artifact else None,
        worst_ratio=evidence.parity.worst_ratio if evidence.parity else None,
        options=evidence.parity.options if evidence.parity else None,
        effective=evidence.parity.witness.evidence if evidence.parity else {},
        speeds=measured.speeds,
        concurrency=measured.concurrency,
        cold=measured.cold,
        on_pareto_front=ranking is not None and evidence.name in ranking.pareto_front,
        why_not=ranking.why_not.get(evidence.name) if ranking else None,
        artifact_sha256=digest(evidence.artifact) if evidence.artifact else None,
        parity_sha256=digest(evidence.parity) if evidence.parity else None,
        measurement_sha256=digest(evidence.measurement) if evidence.measurement else None,
    )
