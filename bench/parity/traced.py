"""Whether a traced program is the model's, asked in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.parity.oracle import Oracle
from export.artifact import verified_program
from export.build import Source
from export.signature import Signature
from export.task import task


@dataclass(frozen=True, kw_only=True)
class TracedJob:
    """Compare a program with the module of ``source``."""

    source: Source
    signature: Signature
    device: str
    program: str
    """Its folder."""


@task
def difference(job: TracedJob) -> str | None:
    """What stands against the program, which answers the example beside the module, in float64 or as they are; None if
    nothing does.
    """
    oracle = Oracle(job.source.module(), job.signature, job.device, verified_program(Path(job.program)))
    if not oracle.program_compared:
        return "its answers could not be compared with the model's in float64"
    return oracle.program_differs
