"""From an artifact to its parity report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.parity.calibrate import Calibration, CalibrationJob
from bench.parity.calibrate import calibrate as calibrate_model
from bench.parity.check import Check
from bench.parity.reference import REFERENCE_RECORD, Reference, ReferenceJob
from bench.parity.reference import reference as make_reference
from bench.parity.report import ParityReport
from bench.parity.run import ParityRun, known_variants, read_calibration
from bench.timing.inputs import draws
from bench.verdict.judge import Failure
from export.arrays import to_numpy, to_torch
from export.artifact import Artifact, ProgramRecord
from export.backend import LoadOptions
from export.device import device
from export.errors import UserError
from export.record import digest, key_of, write
from export.signature import Signature
from export.worker import Failed, Workspace
from pipeline.data import Data, Split
from pipeline.run import Run
from pipeline.stages.children import Failures, failure, load_options, reused, side_by_side, users_code
from pipeline.stages.train import Trained
from pipeline.training.determinism import seed_everything
from pipeline.training.metrics import Labelled


def parity(stage: ParityStage, artifacts: Mapping[str, Artifact], failures: Failures) -> dict[str, ParityReport]:
    """A report for every artifact, each loaded from disk where the model's source cannot be imported."""
    if not artifacts:
        return {}
    run = stage.run
    with run.console.bar("parity"):
        reference = stage.reference
    for remark in reference.remarks:
        run.console.stage("parity", f"remark: {remark}")
    return side_by_side(run, "parity", list(artifacts), lambda name: stage.report(artifacts[name]), failures)


class ParityStage:
    """The reference of a run, made or reused, and the reports by it."""

    def __init__(self, run: Run, trained: Trained, program: ProgramRecord) -> None:
        self.run = run
        self._trained = trained
        self._program = program

    def begin(self) -> Callable[[], object]:
        """What makes the reference, in any thread: what of the user's it takes is loaded at once, in this one."""
        if not self.run.has(self.run.files.reference, Reference, REFERENCE_RECORD, self._reference_key):
            _ = self._samples
        return lambda: self.reference

    def report(self, artifact: Artifact) -> ParityReport | Failure:
        """The report of one artifact with the settings that are asked for, made or reused."""
        run, path = self.run, self.run.files.parity_report(artifact.name)
        beside = run.files.parity_as_asked(artifact.name)
        report, known = self._judged(artifact, load_options(run, artifact), beside, path)
        if isinstance(report, Failure):
            return report
        run.console.stage("parity", f"{artifact.name}: {report.summary}{', reused' if known else ''}")
        if not known or not path.exists():
            write(path, report)
        if known:
            return report
        if report.worst is not None:
            run.console.stage("parity", f"{artifact.name}: {report.worst.text}")
        return report

    def recheck(self, artifact: Artifact, options: LoadOptions) -> ParityReport | Failure:
        """The report with other settings, made or reused; whoever asks keeps it, or not."""
        return self._judged(artifact, options, self.run.files.parity_report(artifact.name))[0]

    def _judged(self, artifact: Artifact, options: LoadOptions, *places: Path) -> tuple[ParityReport | Failure, bool]:
        """The report, and whether it lay in one of the places."""
        run, key = self.run, self._key(artifact, options)
        for path in places:
            if (known := reused(run, ParityReport, path, key)) is not None:
                return known, True
        return self.judge(artifact, options, run.files.artifact(artifact.name), run.workspace), False

    def judge(
        self, artifact: Artifact, options: LoadOptions, folder: Path, workspace: Workspace
    ) -> ParityReport | Failure:
        """The report of what lies in a folder, made anew."""
        end = self._parity_run.judge(folder, options, workspace, self._key(artifact, options))
        return failure(self.run, "parity", end) if isinstance(end, Failed) else end

    @property
    def standard(self) -> str:
        """What artifacts are held to: a change of it may change what was found of them."""
        calibration = read_calibration(self.run.files, self.reference)
        return key_of(
            reference=digest(self.reference),
            calibration=digest(calibration) if calibration else None,
            spec=self.run.found.recipe.parity,
        )

    def _key(self, artifact: Artifact, options: LoadOptions) -> str:
        return self.run.key(
            "parity",
            tools=("bench", "export", "metrics"),
            artifact=digest(artifact),
            standard=self.standard,
            options=options,
        )

    def calibrate(self) -> Calibration:
        """Vary the model, plant faults in it, write down what was found: reports are judged by it from now on."""
        run, recipe = self.run, self.run.found.recipe
        key = run.key("calibration", tools=("bench", "export"), reference=digest(self.reference), spec=recipe.parity)
        job = CalibrationJob(
            source=self._trained.source,
            signature=self._program.signature,
            spec=recipe.parity,
            program=self._program_folder,
            reference=str(run.files.reference),
            reference_sha256=digest(self.reference),
            cases=self.reference.cases,
            seed=recipe.seed,
            device=run.device,
            key=key,
        )
        run.console.stage("parity", "equivalent variants of the model, and faults planted in it")
        end = run.workspace.run(calibrate_model, job, "calibrate")
        if isinstance(end, Failed):
            raise UserError(f"calibration {end.summary}\nThe whole story: {end.log}")
        write(run.files.calibration, end.result)
        return end.result

    @property
    def _parity_run(self) -> ParityRun:
        run = self.run
        return ParityRun(
            reference=self.reference,
            reference_folder=run.files.reference,
            program=self._program,
            program_folder=run.files.program,
            weights=run.files.weights,
            variants=known_variants(run.files, self.reference),
            spec=run.found.recipe.parity,
            source=self._trained.source,
            metrics=self._metrics,
        )

    def _metrics(self, answers: Path, signature: Signature) -> list[Check]:
        """The recipe's metrics on the artifact's answers to real labelled rows; one artifact at a time."""
        with users_code(self.run, "a metric"):
            return self._labelled.checks(self.run.files.reference, answers, signature)

    @cached_property
    def _labelled(self) -> Labelled:
        split_name, split = self._held_out if self._data is not None else ("", None)
        return Labelled(self.run.found.recipe, self._trained.source, split_name, split, self.reference)

    @cached_property
    def _data(self) -> Data | None:
        """The recipe's data, loaded once."""
        recipe = self.run.found.recipe
        if recipe.data is None:
            return None
        with users_code(self.run, "loading the data"):
            seed_everything(recipe.seed, device(self.run.device))
            return recipe.data()

    @property
    def _held_out(self) -> tuple[str, Split]:
        """Rows that nothing was trained on, where there are some: the data that parity looks at."""
        assert self._data is not None
        recipe = self.run.found.recipe
        return self._data.held_out(recipe.signature.input_names, recipe.parity.rows_count)

    @property
    def _program_folder(self) -> str | None:
        return None if self._program.failure else str(self.run.files.program)

    @cached_property
    def _reference_key(self) -> str:
        run, recipe, spec = self.run, self.run.found.recipe, self.run.found.recipe.parity
        drawn = {"drawn_rows": recipe.bench.batch_rows} if recipe.signature.has_draw_functions else {}
        settings = {"depth": spec.depth, "rows": spec.rows_count, "batch": spec.batch_rows, "limit": spec.call_limit_s}
        return run.key(
            "reference",
            tools=("bench", "export"),
            checkpoint=digest(self._trained.checkpoint),
            program=digest(self._program),
            signature=self._program.signature,
            spec=settings | drawn,
            seed=recipe.seed,
            device=run.device,
        )

    @cached_property
    def reference(self) -> Reference:
        """The inputs of every parity case, and the model's own answers in float64 and float32; made or reused."""
        run, recipe, key = self.run, self.run.found.recipe, self._reference_key

        def make(folder: Path) -> None:
            run.console.stage("parity", "the model's own answers, in float64 and float32")
            job = ReferenceJob(
                source=self._trained.source,
                signature=self._program.signature,
                spec=recipe.parity,
                real_rows=self._save_samples(folder),
                program=self._program_folder,
                seed=recipe.seed,
                device=run.device,
                key=key,
                checkpoint_sha256=digest(self._trained.checkpoint),
                folder=str(folder),
            )
            end = run.workspace.run(make_reference, job, "reference")
            if isinstance(end, Failed):
                raise UserError(f"nothing can be held to this model: {end.summary}\nThe whole story: {end.log}")

        reference, _ = run.stage(run.files.reference, Reference, REFERENCE_RECORD, key, make)
        return reference

    def _save_samples(self, folder: Path) -> str | None:
        """What parity and measurement call with; the file, if there is any."""
        if not self._samples:
            return None
        path = folder / self.run.files.samples.name
        save_file(self._samples, path)
        return str(path)

    @cached_property
    def _samples(self) -> dict[str, torch.Tensor]:
        """Real rows, of the test split where there is one, and what functions draw for calls that are timed."""
        run, recipe = self.run, self.run.found.recipe
        samples: dict[str, torch.Tensor] = {}
        if self._data is not None:
            inputs = self._held_out[1].inputs
            samples = {name: rows[: recipe.parity.rows_count].contiguous().clone() for name, rows in inputs.items()}
        if recipe.signature.has_draw_functions:
            with users_code(run, "drawing inputs"):
                real = {name: to_numpy(rows) for name, rows in samples.items()}
                drawn = draws(self._program.signature, real, recipe.bench, recipe.seed)
            samples |= {name: to_torch(array) for name, array in drawn.items()}
        return samples
