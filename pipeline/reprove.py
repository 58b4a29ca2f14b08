"""Parity once more, for an artifact of a finished run: with other settings, or lowered for an old runtime.

The reference, its inputs and the thresholds are the run's. The recipe is not at hand, so its metric is not measured.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.parity.report import ParityReport
    from export.artifact import Artifact
    from export.backend import LoadOptions
    from export.worker import Outcome, Workspace


def reprove(
    run: Path, folder: Path, artifact: Artifact, options: LoadOptions, before: ParityReport, workspace: Workspace
) -> ParityReport | Outcome:
    """The report on the artifact in ``folder`` with these options; or how its process ended, if not well."""
    from bench.parity.jobs import REFERENCE_RECORD, Outputs, OutputsJob, Reference
    from bench.parity.report import compare
    from export.artifact import PROGRAM_RECORD, ProgramRecord
    from export.record import from_json, read
    from export.worker import run_child
    from pipeline.training import loop as trainer

    where = run / "parity" / "reference"
    reference = read(Reference, where / REFERENCE_RECORD)
    program = read(ProgramRecord, run / "program" / PROGRAM_RECORD)
    with tempfile.TemporaryDirectory(dir=run / "parity", prefix=f".{artifact.name}.again.") as answers:
        job = OutputsJob(
            artifact=str(folder),
            options=options,
            source=None,
            reference=str(where),
            cases=reference.cases,
            program=None if program.failure else str(run / "program"),
            weights=str(run / "checkpoint" / trainer.WEIGHTS),
            outputs=answers,
        )
        outcome = run_child(f"again-{artifact.name}", "bench.parity.jobs:outputs", job, workspace)
        if outcome.status != "done":
            return outcome
        answered = from_json(Outputs, outcome.value)
        return compare(
            artifact, reference, where, answered, Path(answers), before.spec, options, before.key,
            outcome.duration_s, reference.variants, (), program.operators,
        )  # fmt: skip


def changed(again: ParityReport | Outcome, before: ParityReport, precision: str) -> str | None:
    """Why the artifact is not what was proved any more; None if parity finds nothing that it did not find before."""
    from bench.parity.levels.fidelity import is_quantized
    from export.worker import Outcome

    if isinstance(again, Outcome):
        return f"{again.status}: {again.cause}"
    # By the metric, which is not at hand, int8 is judged; an exact artifact must pass as it did.
    same = set(again.failed_levels) <= set(before.failed_levels) if is_quantized(precision) else again.status == "pass"
    return None if same else f"parity {again.status}: {'; '.join(again.reasons)}"
