"""From a program that is not the model's to that of another road of the tracer, where one is.

The tracer keeps the program of its first road by its own trial (export/capture_roads.py); the reference then compares
it with the model in float64. What was traced first stays in its place until another is found to be the model's, and for
good where none is: then what is made from it is held to the model itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bench.parity.reference import Reference
from bench.parity.report import ParityReport
from bench.parity.traced import TracedJob, difference
from export.artifact import PROGRAM_RECORD, Artifact, ProgramRecord
from export.files import publish
from export.record import digest, read, write
from export.roads import ROAD
from export.worker import Failed
from pipeline.run import Run, fresh
from pipeline.stages.build import build
from pipeline.stages.capture import Captures
from pipeline.stages.children import Failures
from pipeline.stages.parity import ParityStage, parity
from pipeline.stages.refused import known
from pipeline.stages.train import Trained


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made of a program, and how it was judged; by backend."""

    program: ProgramRecord
    artifacts: Mapping[str, Artifact]
    reports: Mapping[str, ParityReport]


def by_another_trace(run: Run, trained: Trained, made: Made, failures: Failures) -> Made:
    """The same; where its program computes something else than the model, and another road's does not, of that."""
    if made.program.failure or not made.reports:
        return made
    why = read(Reference, run.files.reference_record).program_differs
    other = _another(run, trained, made.program, why) if why else None
    if other is None:
        return made
    for name in [name for name, failure in failures.items() if failure.step in {"build", "parity"}]:
        del failures[name]  # they are of the program that was refused
    stage = ParityStage(run, trained, other)
    artifacts = build(run, trained, other, failures, beside=stage.begin())
    return Made(program=other, artifacts=artifacts, reports=parity(stage, artifacts, failures))


def _another(run: Run, trained: Trained, refused: ProgramRecord, why: str) -> ProgramRecord | None:
    """The first program by another road that is the model's, now in the place of the refused one; None if none is."""
    captures, place = Captures(run, trained), run.files.refused_roads("program")
    before = known(run, place, captures.key)
    standard = digest(refused)
    if before.closed == standard:
        return None
    run.console.stage("capture", f"refused as traced by {refused.facts[ROAD]}, and traced by another road: {why}")
    left_out, folder = before.left_out | {refused.facts[ROAD]: why}, fresh(run.files.program, "other")
    while captures.make(folder, left_out) is None:
        program = read(ProgramRecord, folder / PROGRAM_RECORD)
        if program.failure or program.facts[ROAD] in left_out:
            write(place, replace(before, closed=standard))
            break
        job = TracedJob(source=trained.source, signature=program.signature, device=run.device, program=str(folder))
        end = run.workspace.run(difference, job, "traced-again")
        if isinstance(end, Failed):  # another time, or limit, may let it
            break
        if end.result is None:
            write(place, replace(before, left_out=left_out, closed=None))  # first: if killed now, it is traced again
            publish(folder, run.files.program)
            run.console.stage("capture", captures.line(program))
            return program
        left_out[program.facts[ROAD]] = end.result
        shutil.rmtree(folder)
        folder.mkdir()
    shutil.rmtree(folder)
    run.console.stage("capture", "no other road traces what the model computes")
    return None
