"""From an artifact to its parity report."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file

from bench.parity.calibrate import Calibration, CalibrationJob
from bench.parity.check import Check
from bench.parity.equivalent import EquivalentVariant
from bench.parity.jobs import REFERENCE_RECORD, SAMPLES, Outputs, OutputsJob, Reference, ReferenceJob
from bench.parity.levels.fresh import fresh_checks
from bench.parity.report import ParityReport, compare
from bench.verdict.judge import Failure
from export.artifact import Artifact, ProgramRecord
from export.errors import UserError
from export.record import digest, from_json, read, write
from export.signature import Signature
from export.worker import run_child
from pipeline.recipe import Data, Split
from pipeline.run import Run
from pipeline.stages.children import Failures, failure, load_options, reused, side_by_side, users_code
from pipeline.stages.train import Trained
from pipeline.training import loop as trainer
from pipeline.training.metrics import Labelled

REFERENCE, CALIBRATION = "parity/reference", "parity/calibration.json"


def parity(
    run: Run, trained: Trained, program: ProgramRecord, artifacts: Mapping[str, Artifact], failures: Failures
) -> dict[str, ParityReport]:
    """A report for every artifact, each loaded from disk where the model's source cannot be imported."""
    if not artifacts:
        return {}
    prover = Prover(run, trained, program)
    return side_by_side(run, "parity", list(artifacts), lambda name: prover.prove(artifacts[name]), failures)


class Prover:
    """The reference of a run, and how any artifact of the model is judged by it."""

    def __init__(self, run: Run, trained: Trained, program: ProgramRecord) -> None:
        self.run = run
        self.trained = trained
        self.program = program
        self.folder = run.folder / REFERENCE
        self._data: Data | None = None
        self.reference = self._make_reference(program.signature)
        self._labelled: Labelled | None = None
        self._users_turn = threading.Lock()

    def prove(self, artifact: Artifact) -> ParityReport | Failure:
        """The report of one artifact, made or reused."""
        run, spec = self.run, self.run.found.recipe.parity
        key = run.key(
            "parity",
            tools=("bench", "export"),
            artifact=digest(artifact),
            reference=digest(self.reference),
            options=load_options(run, artifact),
            calibration=digest(self.calibration) if self.calibration else None,
            spec=spec,
        )
        path = run.folder / "parity" / f"{artifact.name}.json"
        if (known := reused(run, ParityReport, path, key)) is not None:
            run.console.stage("parity", f"{artifact.backend}: {summary(known)}, reused")
            return known
        report = self.judge(artifact, run.folder / "artifacts" / artifact.name, key)
        if isinstance(report, ParityReport):
            write(path, report)
            run.console.stage("parity", f"{artifact.backend}: {summary(report)}")
        return report

    def judge(self, artifact: Artifact, folder: Path, key: str) -> ParityReport | Failure:
        """Load the artifact in ``folder`` in a process of its own, let it answer every case, compare."""
        run, spec, options = self.run, self.run.found.recipe.parity, load_options(self.run, artifact)
        answers = Path(tempfile.mkdtemp(dir=run.folder / "parity", prefix=f".{artifact.name}."))
        job = OutputsJob(
            artifact=str(folder),
            options=options,
            source=None if artifact.source_free else self.trained.source,
            reference=str(self.folder),
            cases=self.reference.cases,
            program=self._program_folder(),
            weights=str(run.folder / "checkpoint" / trainer.WEIGHTS),
            outputs=str(answers),
        )
        name = f"parity-{artifact.name}"
        try:
            outcome = run_child(name, "bench.parity.jobs:outputs", job, run.workspace, source_free=artifact.source_free)
            if outcome.status != "done":
                return failure(run, "parity", outcome)
            answered = from_json(Outputs, outcome.value)
            more = [] if answered.refusals else self._metrics(answers, artifact.signature)
            if spec.depth == "full":
                more += fresh_checks(name, job, run.workspace, artifact.source_free)
            return compare(
                artifact, self.reference, self.folder, answered, answers, spec, options, key, outcome.duration_s,
                self.variants, more, self.program.operators,
            )  # fmt: skip
        finally:
            shutil.rmtree(answers, ignore_errors=True)

    def calibrate(self) -> Calibration:
        """Vary the model, plant faults in it, write down what was found: reports are judged by it from now on."""
        run, recipe = self.run, self.run.found.recipe
        key = run.key("calibration", tools=("bench", "export"), reference=digest(self.reference), spec=recipe.parity)
        job = CalibrationJob(
            source=self.trained.source,
            signature=self.program.signature,
            spec=recipe.parity,
            program=self._program_folder(),
            reference=str(self.folder),
            reference_sha256=digest(self.reference),
            cases=self.reference.cases,
            seed=recipe.seed,
            device=run.device,
            key=key,
        )
        run.console.stage("parity", "honest variants of the model, and faults planted in it")
        outcome = run_child("calibrate", "bench.parity.calibrate:calibrate", job, run.workspace)
        if outcome.status != "done":
            raise UserError(f"calibration {outcome.status}: {outcome.cause}\nThe whole story: {outcome.log}")
        calibration = from_json(Calibration, outcome.value)
        write(run.folder / CALIBRATION, calibration)
        return calibration

    @property
    def calibration(self) -> Calibration | None:
        """What a calibration by this very reference left; None if there was none."""
        path = self.run.folder / CALIBRATION
        calibration = read(Calibration, path) if path.exists() else None
        return calibration if calibration and calibration.reference_sha256 == digest(self.reference) else None

    @property
    def variants(self) -> tuple[EquivalentVariant, ...]:
        """Every honest variant of the model that is known."""
        return self.reference.variants + (self.calibration.variants if self.calibration else ())

    def _metrics(self, answers: Path, signature: Signature) -> list[Check]:
        """The recipe's metrics on the artifact's answers to real labelled rows; one artifact at a time."""
        recipe = self.run.found.recipe
        with self._users_turn, users_code(self.run, "a metric"):
            if self._labelled is None:
                split_name, split = _parity_split(self.data) if self.data is not None else ("", None)
                self._labelled = Labelled(recipe, self.trained.source, split_name, split, self.reference)
            return self._labelled.checks(self.folder, answers, signature)

    @property
    def data(self) -> Data | None:
        """The recipe's data, loaded once."""
        recipe = self.run.found.recipe
        if self._data is None and recipe.data is not None:
            trainer.seed_everything(recipe.seed, self.run.device)
            with users_code(self.run, "loading the data"):
                self._data = recipe.data()
        return self._data

    def _program_folder(self) -> str | None:
        return None if self.program.failure else str(self.run.folder / "program")

    def _make_reference(self, signature: Signature) -> Reference:
        """The inputs of every parity case, and the model's own answers in float64 and float32."""
        run, recipe, spec = self.run, self.run.found.recipe, self.run.found.recipe.parity
        key = run.key(
            "reference",
            tools=("bench", "export"),
            checkpoint=digest(self.trained.checkpoint),
            program=digest(self.program),
            signature=signature,
            spec={"depth": spec.depth, "rows": spec.rows_count, "batch": spec.batch_rows, "limit": spec.call_limit_s},
            seed=recipe.seed,
            device=run.device,
        )

        def make(folder: Path) -> None:
            run.console.stage("parity", "the model's own answers, in float64 and float32")
            job = ReferenceJob(
                source=self.trained.source,
                signature=signature,
                spec=spec,
                samples=self._save_samples(folder),
                program=self._program_folder(),
                seed=recipe.seed,
                device=run.device,
                key=key,
                checkpoint_sha256=digest(self.trained.checkpoint),
                folder=str(folder),
            )
            outcome = run_child("reference", "bench.parity.jobs:reference", job, run.workspace)
            if outcome.status != "done":
                raise UserError(
                    f"the model cannot answer its own parity inputs ({outcome.status}): {outcome.cause}\n"
                    f"The whole story: {outcome.log}"
                )

        reference, _ = run.stage(REFERENCE, Reference, REFERENCE_RECORD, key, make)
        return reference

    def _save_samples(self, folder: Path) -> str | None:
        """Real rows for parity and measurement, of the test split where there is one."""
        if self.data is None:
            return None
        _, split = _parity_split(self.data)
        path = folder / SAMPLES
        rows_count = self.run.found.recipe.parity.rows_count
        save_file({name: rows[:rows_count].contiguous().clone() for name, rows in split.inputs.items()}, path)
        return str(path)


def _parity_split(data: Data) -> tuple[str, Split]:
    """The rows that nothing was trained on, where there are such."""
    return ("test", data.test) if data.test is not None else ("train", data.train)


def summary(report: ParityReport) -> str:
    """One line about a report."""
    if report.status == "pass" and report.worst_ratio is not None:
        return f"pass, largest error {report.worst_ratio:.2f} times eager's"
    return f"{report.status}: {report.reasons[0] if report.reasons else ''}"
