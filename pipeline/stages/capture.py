"""From a checkpoint to the traced program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.verdict.judge import Failure
from export.artifact import PROGRAM_RECORD, ProgramRecord
from export.build import CaptureJob, apart, program_record
from export.build import capture as capture_program
from export.record import digest, write
from export.roads import detour
from export.worker import Failed
from pipeline.run import Run
from pipeline.stages.children import failure
from pipeline.stages.refused import key_without, known
from pipeline.stages.train import Trained, complete_signature


def capture(run: Run, trained: Trained) -> ProgramRecord:
    """The traced program, without the roads whose program was refused before; where the tracer fails or crashes, a
    record of the reason, which is tried anew each time.
    """
    captures = Captures(run, trained)
    left_out = known(run, run.files.refused_roads("program"), captures.key).left_out
    program, made = run.stage(
        run.files.program,
        ProgramRecord,
        PROGRAM_RECORD,
        key_without(captures.key, left_out),
        lambda folder: captures.make(folder, left_out),
        usable=lambda record: record.failure is None,
    )
    run.console.stage("capture", captures.line(program) if made else program.failure or "reused")
    return program


class Captures:
    """The traces of a run's checkpoint."""

    def __init__(self, run: Run, trained: Trained) -> None:
        self._run = run
        self._trained = trained

    @property
    def key(self) -> str:
        """The key of the trace with every road open."""
        recipe = self._run.found.recipe
        return self._run.key(
            "capture",
            tools=("export",),
            checkpoint=digest(self._trained.checkpoint),
            signature=recipe.signature,
            seed=recipe.seed,
        )

    def make(self, folder: Path, left_out: Mapping[str, str]) -> Failure | None:
        """Trace into an empty folder, without some roads; how the process ended, if it did not end well."""
        run = self._run
        job = CaptureJob(
            source=self._trained.source,
            signature=complete_signature(run),
            seed=run.found.recipe.seed,
            key=key_without(self.key, left_out),
            checkpoint_sha256=digest(self._trained.checkpoint),
            folder=str(folder),
            left_out=dict(left_out),
        )
        with run.console.bar("capture"):
            end = apart(capture_program, job, run.workspace, "capture")
        if not isinstance(end, Failed):
            return None
        ended = failure(run, "capture", end)
        write(folder / PROGRAM_RECORD, program_record(job, "unknown", f"tracing {ended.cause}", end.duration_s))
        return ended

    @staticmethod
    def line(program: ProgramRecord) -> str:
        """What is said of a trace that was made."""
        traced = [f"traced in {program.observed.duration_s:.1f} s", detour(program.facts)]
        return program.failure or ", ".join(filter(None, traced))
