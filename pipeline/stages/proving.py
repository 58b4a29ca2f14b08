"""From an artifact to its parity report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file

from bench.parity.cases import case_sizes
from bench.parity.jobs import INPUTS, REFERENCE_RECORD, SAMPLES, Outputs, OutputsJob, Reference, ReferenceJob
from bench.parity.report import ParityReport, compare
from bench.verdict import Failure
from export.artifact import Artifact
from export.errors import UserError
from export.record import digest, from_json, write
from export.signature import Signature
from export.worker import run_child
from pipeline import train as trainer
from pipeline.run import Run
from pipeline.stages.children import Failures, failure, load_options, reused, side_by_side, users_code
from pipeline.stages.training import Trained

REFERENCE = "parity/reference"
_SAMPLE_ROWS = 2048


def parity(
    run: Run, trained: Trained, artifacts: Mapping[str, Artifact], failures: Failures
) -> dict[str, ParityReport]:
    """A report for every artifact, each loaded from disk where the model's source cannot be imported."""
    if not artifacts:
        return {}
    reference = _reference(run, trained, next(iter(artifacts.values())).signature)

    def one(name: str) -> ParityReport | Failure:
        return _prove_one(run, trained, artifacts[name], reference)

    return side_by_side(run, "parity", list(artifacts), one, failures)


def _prove_one(run: Run, trained: Trained, artifact: Artifact, reference: Reference) -> ParityReport | Failure:
    spec = run.found.recipe.parity
    key = run.key(
        "parity", tools=("bench", "export"), artifact=digest(artifact), reference=digest(reference), spec=spec
    )
    path = run.folder / "parity" / f"{artifact.name}.json"
    if (report := reused(run, ParityReport, path, key)) is not None:
        run.console.stage("parity", f"{artifact.backend}: {_told(report)}, reused")
        return report
    folder = run.folder / REFERENCE
    answers = path.with_name(f".{artifact.name}.outputs.safetensors")
    job = OutputsJob(
        artifact=str(run.folder / "artifacts" / artifact.name),
        options=load_options(run),
        sizes=reference.sizes,
        source=None if artifact.source_free else trained.source,
        inputs=str(folder / INPUTS),
        outputs=str(answers),
    )
    try:
        outcome = run_child(
            f"parity-{artifact.name}",
            "bench.parity.jobs:outputs",
            job,
            run.desk,
            source_free=artifact.source_free,
        )
        if outcome.status != "done":
            return failure(run, "parity", outcome)
        answered = from_json(Outputs, outcome.value)
        report = compare(artifact, reference, folder, answered, answers, spec, key, outcome.duration_s)
    finally:
        answers.unlink(missing_ok=True)
    write(path, report)
    run.console.stage("parity", f"{artifact.backend}: {_told(report)}")
    return report


def _reference(run: Run, trained: Trained, signature: Signature) -> Reference:
    """The inputs of every parity case, and the model's own answers in float64 and float32."""
    recipe = run.found.recipe
    sizes = case_sizes(signature, recipe.parity.batch_rows)
    key = run.key(
        "reference",
        tools=("bench", "export"),
        checkpoint=digest(trained.checkpoint),
        signature=signature,
        sizes=sizes,
        seed=recipe.seed,
        device=run.device,
    )

    def make(folder: Path) -> None:
        job = ReferenceJob(
            source=trained.source,
            signature=signature,
            sizes=sizes,
            samples=_save_samples(run, folder),
            seed=recipe.seed,
            device=run.device,
            key=key,
            checkpoint_sha256=digest(trained.checkpoint),
            folder=str(folder),
        )
        outcome = run_child("reference", "bench.parity.jobs:reference", job, run.desk)
        if outcome.status != "done":
            raise UserError(
                f"the model cannot answer its own parity inputs ({outcome.status}): {outcome.cause}\n"
                f"The whole story: {outcome.log}"
            )

    reference, _ = run.stage(REFERENCE, Reference, REFERENCE_RECORD, key, make)
    return reference


def _save_samples(run: Run, folder: Path) -> str | None:
    """Real rows for parity and measurement, of the test split where there is one."""
    recipe = run.found.recipe
    if recipe.data is None:
        return None
    trainer.seed_everything(recipe.seed, run.device)
    with users_code(run, "loading the data"):
        data = recipe.data()
    split = data.test or data.train
    path = folder / SAMPLES
    save_file({name: rows[:_SAMPLE_ROWS].contiguous().clone() for name, rows in split.inputs.items()}, path)
    return str(path)


def _told(report: ParityReport) -> str:
    if report.status == "pass" and report.worst_ratio is not None:
        return f"pass, largest error {report.worst_ratio:.2f} times eager's"
    return f"{report.status}: {report.reasons[0] if report.reasons else ''}"
