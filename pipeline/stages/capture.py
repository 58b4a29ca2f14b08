"""From a checkpoint to the traced program."""

from __future__ import annotations

from pathlib import Path

from export.artifact import PROGRAM_RECORD, ProgramRecord
from export.build import CaptureJob, apart, program_record
from export.build import capture as capture_program
from export.record import digest, write
from export.roads import detour
from export.worker import Failed
from pipeline.run import Run
from pipeline.stages.children import failure
from pipeline.stages.train import Trained, complete_signature


def capture(run: Run, trained: Trained) -> ProgramRecord:
    """The traced program; where the tracer fails or crashes, a record of the reason, which is tried anew each time."""
    recipe = run.found.recipe
    key = run.key(
        "capture",
        tools=("export",),
        checkpoint=digest(trained.checkpoint),
        signature=recipe.signature,
        seed=recipe.seed,
    )

    def make(folder: Path) -> None:
        job = CaptureJob(
            source=trained.source,
            signature=complete_signature(run),
            seed=recipe.seed,
            key=key,
            checkpoint_sha256=digest(trained.checkpoint),
            folder=str(folder),
        )
        with run.console.bar("capture"):
            end = apart(capture_program, job, run.workspace, "capture")
        if isinstance(end, Failed):
            cause = failure(run, "capture", end).cause
            write(folder / PROGRAM_RECORD, program_record(job, "unknown", f"tracing {cause}", end.duration_s))

    program, made = run.stage(
        run.files.program, ProgramRecord, PROGRAM_RECORD, key, make, usable=lambda record: record.failure is None
    )
    traced = ", ".join(filter(None, [f"traced in {program.observed.duration_s:.1f} s", detour(program.facts)]))
    run.console.stage("capture", program.failure or (traced if made else "reused"))
    return program
