"""The one road to a parity report: an artifact from disk answers the reference in a process of its own, and is judged.

A run's own stage, tuning, the lowering of a file for an older runtime, and the tests all take it, so that a recheck is
what the first check was: without the model's source, within the run's process limits, by all known variants.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.parity.calibrate import Calibration
from bench.parity.check import Check
from bench.parity.equivalent import EquivalentVariant
from bench.parity.fresh import fresh_checks
from bench.parity.judgement import Answered, Standard, judge
from bench.parity.levels.error import Error
from bench.parity.levels.fidelity import judged_by_metric
from bench.parity.outputs import OutputsJob, outputs
from bench.parity.reference import Reference
from bench.parity.report import ParityReport
from bench.parity.spec import ParitySpec
from bench.parity.spread import SpreadJob, spread
from bench.run_folder import RunFolder
from export.artifact import Artifact, ProgramRecord, open_artifact
from export.backend import LoadOptions
from export.build import Source
from export.record import digest, read
from export.signature import Signature
from export.worker import Failed, Workspace

_GROSS_RATIO = 1e3
"""An error of so many times eager's own is no matter of roundings."""

Metrics = Callable[[Path, Signature], Sequence[Check]]
"""The recipe's metrics on the answers in a folder, one per output and case; asked for one artifact at a time."""


@dataclass(frozen=True, kw_only=True)
class ParityRun:
    """What every artifact of one model is judged by."""

    reference: Reference
    reference_folder: Path
    program: ProgramRecord
    program_folder: Path
    weights: Path
    """The checkpoint's, as safetensors."""
    variants: tuple[EquivalentVariant, ...]
    """Every equivalent variant of the model that is known: the reference's, and those of a calibration."""
    spec: ParitySpec
    source: Source | None = None
    """The model's own, for artifacts that need it; a recheck has none."""
    metrics: Metrics | None = None
    """A recheck has none."""

    @classmethod
    def of(cls, files: RunFolder, spec: ParitySpec) -> ParityRun:
        """That of a finished run, from its records alone.

        Raises:
            RecordError: a record is missing or altered.
        """
        reference = read(Reference, files.reference_record)
        return cls(
            reference=reference,
            reference_folder=files.reference,
            program=read(ProgramRecord, files.program_record),
            program_folder=files.program,
            weights=files.weights,
            variants=known_variants(files, reference),
            spec=spec,
        )

    def judge(
        self, artifact_folder: Path, options: LoadOptions, workspace: Workspace, key: str
    ) -> ParityReport | Failed:
        """Load the artifact in a process of its own, let it answer every case, compare; or how that process ended.

        Raises:
            RecordError: a file of the artifact is missing or altered.
        """
        artifact = open_artifact(artifact_folder)
        name = f"parity-{artifact.name}"
        workspace.folder.mkdir(parents=True, exist_ok=True)
        answers = Path(tempfile.mkdtemp(dir=workspace.folder, prefix=f".{name}."))
        job = OutputsJob(
            artifact=str(artifact_folder),
            options=options,
            source=None if artifact.source_free else self.source,
            reference=str(self.reference_folder),
            cases=self.reference.cases,
            program=None if self.program.failure else str(self.program_folder),
            weights=str(self.weights),
            outputs=str(answers),
        )
        try:
            end = workspace.run(outputs, job, name, source_free=artifact.source_free)
            if isinstance(end, Failed):
                return end
            more: list[Check] = []
            if self.metrics is not None and not end.result.refusals:
                more += self.metrics(answers, artifact.signature)
            if self.spec.depth == "full":
                more += fresh_checks(name, job, workspace, source_free=artifact.source_free)
            answered = Answered(
                artifact=artifact,
                options=options,
                folder=answers,
                outputs=end.result,
                more=tuple(more),
                duration_s=end.duration_s,
            )
            return self._again(judge(self.standard, answered, key), answered, workspace, name)
        finally:
            shutil.rmtree(answers, ignore_errors=True)

    def _again(self, report: ParityReport, answered: Answered, workspace: Workspace, name: str) -> ParityReport:
        """The report, or where cases fail that equivalents of the model may explain, the one that takes them in."""
        numbers = self._explicable(report)
        if not numbers or self.source is None or answered.outputs.refusals:
            return report
        spreads = Path(tempfile.mkdtemp(dir=workspace.folder, prefix=f".{name}-spread."))
        job = SpreadJob(
            source=self.source,
            signature=answered.artifact.signature,
            program=None if self.program.failure else str(self.program_folder),
            reference=str(self.reference_folder),
            answers=str(answered.folder),
            numbers=numbers,
            cases=self.reference.cases,
            limits=report.thresholds,
            own_rows=self.reference.own_rows,
            seed=0,
            device=answered.options.device,
            folder=str(spreads),
        )
        try:
            end = workspace.run(spread, job, f"{name}-spread")
            if isinstance(end, Failed):
                return report
            again = replace(answered, spreads=frozenset(end.result.numbers), spread_folder=spreads)
            return judge(self.standard, again, report.key)
        finally:
            shutil.rmtree(spreads, ignore_errors=True)

    def _explicable(self, report: ParityReport) -> tuple[int, ...]:
        """The cases on which the artifact fails by what roundings may explain; none if it fails otherwise, too."""
        failing = [check for check in report.checks if check.status == "fail"]
        gross = any(
            check.value is not None and check.value > _GROSS_RATIO for check in failing if check.level == Error.name
        )
        by_name: dict[str, list[int]] = {}
        for number, case in enumerate(self.reference.cases):
            by_name.setdefault(case.name, []).append(number)
        numbers = [number for check in failing for case in check.cases for number in by_name.get(case, ())]
        if gross or not self.reference.variants or not all(check.cases for check in failing):
            return ()
        return tuple(dict.fromkeys(numbers))

    @property
    def standard(self) -> Standard:
        """The same, as judgement takes it."""
        return Standard(
            reference=self.reference,
            folder=self.reference_folder,
            operators=self.program.operators,
            spec=self.spec,
            variants=self.variants,
        )


def known_variants(files: RunFolder, reference: Reference) -> tuple[EquivalentVariant, ...]:
    """The reference's, and those that a calibration by this very reference added."""
    calibration = read_calibration(files, reference)
    return reference.variants + (calibration.variants if calibration else ())


def read_calibration(files: RunFolder, reference: Reference) -> Calibration | None:
    """What a calibration by this very reference left; None if there was none."""
    calibration = read(Calibration, files.calibration) if files.calibration.exists() else None
    return calibration if calibration and calibration.reference_sha256 == digest(reference) else None


def differs(recheck: ParityReport | Failed, before: ParityReport, artifact: Artifact) -> str | None:
    """Why the artifact is not what was judged before; None if a recheck finds nothing that was not found then."""
    if isinstance(recheck, Failed):
        return recheck.summary
    # By the metric, which is not at hand, int8 and half precision are judged; an exact artifact must pass as it did.
    known = set(recheck.failed_levels) <= set(before.failed_levels)
    same = known if judged_by_metric(artifact) else recheck.status == "pass"
    return None if same else f"parity {recheck.status}: {'; '.join(recheck.reasons)}"
