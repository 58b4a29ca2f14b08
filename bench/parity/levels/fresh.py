"""Determinism across processes, part of the depth ``full``: the artifact in fresh ones, with one thread and all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench.parity.check import Check, CheckStatus
from bench.parity.jobs import INPUTS, OutputsJob
from bench.parity.store import load_case
from export import backend as backends
from export.arrays import to_numpy
from export.record import from_json, sha256
from export.worker import Workspace, run_child

_PROCESSES = 3


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """SHA-256 of every output of the first rows."""

    outputs: dict[str, str]


def fingerprint(payload: object) -> Fingerprint:
    """Job: load the artifact, answer the first rows, say what came out."""
    job = from_json(OutputsJob, payload)
    runner = backends.load(Path(job.artifact), job.options, job.source.module if job.source else None)
    index = next(index for index, case in enumerate(job.cases) if case.group == "rows")
    inputs = load_case(Path(job.reference) / INPUTS, index, [spec.name for spec in runner.signature.inputs])
    return Fingerprint(outputs={name: sha256(to_numpy(array).tobytes()) for name, array in runner(inputs).items()})


def fresh_checks(name: str, job: OutputsJob, workspace: Workspace, source_free: bool) -> list[Check]:
    """Whether fresh processes give the same bits: with all threads, and with one."""
    checks = []
    for threads_count in sorted({1, job.options.threads_count}):
        summary = "1 thread" if threads_count == 1 else f"{threads_count} threads"
        asked = replace(job, options=replace(job.options, threads_count=threads_count))
        outcomes = [
            run_child(
                f"{name}-fresh", "bench.parity.levels.fresh:fingerprint", asked, workspace, source_free=source_free
            )
            for _ in range(_PROCESSES)
        ]
        subject = f"{_PROCESSES} fresh processes, {summary}"
        if cause := next((outcome.cause for outcome in outcomes if outcome.status != "done"), None):
            checks.append(Check(level="determinism", subject=subject, status="fail", message=f"{subject}: {cause}"))
            continue
        distinct = {str(sorted(from_json(Fingerprint, outcome.value).outputs.items())) for outcome in outcomes}
        message = "bitwise the same" if len(distinct) == 1 else f"{len(distinct)} different answers"
        status: CheckStatus = "pass" if len(distinct) == 1 else "reported"
        checks.append(Check(level="determinism", subject=subject, status=status, message=message))
    return checks
