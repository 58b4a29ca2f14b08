"""Determinism across processes, part of the depth ``full``: the artifact in fresh ones, with one thread and all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench.parity.check import Check, CheckStatus
from bench.parity.levels.determinism import Determinism
from bench.parity.outputs import OutputsJob
from bench.parity.reference import INPUTS
from bench.parity.store import load_case
from export import registry
from export.arrays import to_numpy
from export.record import sha256
from export.task import task
from export.worker import Done, Failed, Workspace

_PROCESSES = 3


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """SHA-256 of every output of the first rows."""

    outputs: dict[str, str]


@task
def fingerprint(job: OutputsJob) -> Fingerprint:
    """Load the artifact, answer the first rows, say what came out."""
    runner = registry.load(Path(job.artifact), job.options, job.source.module if job.source else None)
    index = next(index for index, case in enumerate(job.cases) if case.group == "rows")
    inputs = load_case(Path(job.reference) / INPUTS, index, [spec.name for spec in runner.signature.inputs])
    return Fingerprint(outputs={name: sha256(to_numpy(array).tobytes()) for name, array in runner(inputs).items()})


def fresh_checks(name: str, job: OutputsJob, workspace: Workspace, *, source_free: bool) -> list[Check]:
    """Whether fresh processes give the same bits: with one thread, and with all."""
    counts = sorted({1, job.options.threads_count})
    return [_fresh_check(name, job, count, workspace, source_free=source_free) for count in counts]


def _fresh_check(name: str, job: OutputsJob, threads_count: int, workspace: Workspace, *, source_free: bool) -> Check:
    subject = f"{_PROCESSES} fresh processes, {threads_count} thread{'' if threads_count == 1 else 's'}"
    asked = replace(job, options=replace(job.options, threads_count=threads_count))
    ends = [
        workspace.run(fingerprint, asked, f"{name}-fresh", source_free=source_free, fresh=True)
        for _ in range(_PROCESSES)
    ]
    status: CheckStatus
    if failed := next((end for end in ends if isinstance(end, Failed)), None):
        status, message = "fail", f"{subject}: {failed.cause}"
    else:
        distinct = {str(sorted(end.result.outputs.items())) for end in ends if isinstance(end, Done)}
        same = len(distinct) == 1
        status, message = ("pass", "bitwise the same") if same else ("reported", f"{len(distinct)} different answers")
    return Check(level=Determinism.name, subject=subject, status=status, message=message)
