"""The stages of a run, each from the records before it to its own. ``pipeline/all.py`` puts them in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file

from bench.measure import Measurement, Session
from bench.measure import measure as measure_session
from bench.parity.cases import case_sizes
from bench.parity.jobs import INPUTS, Outputs, OutputsJob, Reference, ReferenceJob
from bench.parity.report import ParityReport, compare
from bench.verdict import Evidence, Failure, Verdict
from bench.verdict import judge as weigh
from export import backend as backends
from export.artifact import RECORD, Artifact
from export.backend import LoadOptions
from export.build import BuildJob, CaptureJob, Source
from export.environment import cores_count, machine
from export.errors import RecordError, UserError
from export.program import ProgramRecord, complete
from export.record import Record, digest, from_json, key_of, read, write
from export.signature import Signature
from export.worker import Outcome, run_child
from pipeline import train as training
from pipeline.run import Run
from pipeline.source import TrainedModule

SAMPLES = "samples.safetensors"
_SAMPLE_ROWS = 2048
_SLOWEST_FIRST = ("aotinductor", "compile", "onnx", "torchscript", "exported", "eager")

Failures = dict[str, Failure]
T = TypeVar("T")
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A checkpoint, and where workers find its module."""

    checkpoint: training.Checkpoint
    source: Source


def check(run: Run) -> Failures:
    """Before anything is trained: which backends cannot work here, and why; each is named with its remedy."""
    failures = {}
    for name in run.found.recipe.backends:
        if reason := backends.get(name).unavailable(run.device):
            failures[name] = Failure(step="build", cause=reason)
            run.console.stage("check", f"{name} will fail: {reason}")
    return failures


def train(run: Run) -> Trained:
    """The checkpoint: trained, or the model's own weights where the recipe has no training."""
    recipe = run.found.recipe
    weights = run.folder / "checkpoint" / training.WEIGHTS
    source = TrainedModule(reference=run.found.reference, weights=str(weights)).source()
    given = None if recipe.train else _given_weights_sha256(run)
    key = run.key(
        "train", tools=("pipeline/train.py",), settings=recipe.train, seed=recipe.seed, device=run.device, given=given,
        sources=run.record.source_sha256, files=run.record.file_sha256,
    )  # fmt: skip

    def make(folder: Path) -> None:
        _complete_signature(run)  # a model that does not accept its own example is not worth training
        epochs_count = recipe.train.epochs if recipe.train else 0
        with run.console.bar("train", epochs_count) as advance:
            progress = training.Progress(say=lambda text: run.console.stage("train", text), advance=lambda done, _: advance(done))
            training.train(recipe, run.device, folder, key, progress)

    checkpoint, made = run.stage("checkpoint", training.Checkpoint, training.RECORD, key, make, keep_partial=True)
    if not made:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in checkpoint.metrics.items())
        run.console.stage("train", f"reused, trained {checkpoint.observed.at}" + (f" ({figures})" if figures else ""))
    return Trained(checkpoint=checkpoint, source=source)


def capture(run: Run, trained: Trained) -> ProgramRecord:
    """The traced program; a model that cannot be traced is recorded with the reason."""
    recipe = run.found.recipe
    key = run.key("capture", tools=("export",), checkpoint=digest(trained.checkpoint), signature=recipe.signature, seed=recipe.seed)

    def make(folder: Path) -> None:
        job = CaptureJob(
            source=trained.source, signature=_complete_signature(run), seed=recipe.seed, key=key,
            checkpoint_sha256=digest(trained.checkpoint), folder=str(folder),
        )  # fmt: skip
        outcome = run_child("capture", "export.build:capture", job, run.desk)
        if outcome.status != "done":
            raise UserError(f"the model could not be captured ({outcome.status}): {outcome.cause}\nThe whole story: {outcome.log}")

    program, made = run.stage("program", ProgramRecord, "program.json", key, make)
    run.console.stage("capture", program.failure or (f"traced in {program.observed.duration_s:.1f} s" if made else "reused"))
    return program


def build(run: Run, trained: Trained, program: ProgramRecord, failures: Failures) -> dict[str, Artifact]:
    """Every artifact that can be built, side by side in processes of their own; those that cannot are in ``failures``."""
    recipe = run.found.recipe

    def one(name: str) -> Artifact | Failure:
        backend = backends.get(name)
        parents = {"checkpoint": digest(trained.checkpoint), "program": digest(program)}
        key = run.key(
            "build", tools=("export",), packages=backend.PACKAGES, backend=name, device=run.device, seed=recipe.seed,
            machine=machine() if backend.DEVICE_BOUND else None, **parents,
        )  # fmt: skip

        def make(folder: Path) -> None:
            job = BuildJob(
                backend=name, device=run.device, source=trained.source, signature=program.signature, seed=recipe.seed, key=key,
                checkpoint_sha256=parents["checkpoint"], program=str(run.folder / "program"), folder=str(folder),
            )  # fmt: skip
            _demand(run_child(f"build-{name}", "export.build:build", job, run.desk))

        try:
            artifact, made = run.stage(f"artifacts/{backends.artifact_name(name, run.device)}", Artifact, RECORD, key, make)
        except _ChildFailed as failed:
            return _failure(run, "build", failed.outcome)
        run.console.stage("build", f"{name}: " + (f"{artifact.observed.duration_s:.1f} s, {_facts(artifact)}" if made else "reused"))
        return artifact

    wanted = [name for name in sorted(recipe.backends, key=_SLOWEST_FIRST.index) if name not in failures]
    return _sort(run, "build", wanted, one, failures)


def parity(run: Run, trained: Trained, artifacts: Mapping[str, Artifact], failures: Failures) -> dict[str, ParityReport]:
    """A verdict of parity for every artifact, each loaded from disk where the model's source cannot be imported."""
    recipe = run.found.recipe
    if not artifacts:
        return {}
    signature = next(iter(artifacts.values())).signature
    reference = _reference(run, trained, signature)
    folder = run.folder / "parity" / "reference"

    def one(name: str) -> ParityReport | Failure:
        artifact = artifacts[name]
        key = run.key("parity", tools=("bench", "export"), artifact=digest(artifact), reference=digest(reference), spec=recipe.parity)
        path = run.folder / "parity" / f"{artifact.name}.json"
        if (report := _reused(run, ParityReport, path, key)) is not None:
            run.console.stage("parity", f"{name}: {_parity_line(report)}, reused")
            return report
        answers = run.folder / "parity" / f".{artifact.name}.outputs.safetensors"
        job = OutputsJob(
            artifact=str(run.folder / "artifacts" / artifact.name), options=_options(run), sizes=reference.sizes,
            source=None if artifact.source_free else trained.source, inputs=str(folder / INPUTS), outputs=str(answers),
        )  # fmt: skip
        outcome = run_child(f"parity-{name}", "bench.parity.jobs:outputs", job, run.desk, source_free=artifact.source_free)
        try:
            if outcome.status != "done":
                return _failure(run, "parity", outcome)
            answered = from_json(Outputs, outcome.value)
            report = compare(artifact, reference, folder, answered, answers, recipe.parity, key, outcome.duration_s)
        finally:
            answers.unlink(missing_ok=True)
        write(path, report)
        run.console.stage("parity", f"{name}: {_parity_line(report)}")
        return report

    return _sort(run, "parity", list(artifacts), one, failures)


def measure(
    run: Run, trained: Trained, artifacts: Mapping[str, Artifact], reports: Mapping[str, ParityReport], failures: Failures
) -> dict[str, Measurement]:
    """Timings of every artifact that may be timed: a wrong one never is."""
    recipe = run.found.recipe
    fit = {"pass", "no-reference"} if recipe.parity.allow_no_reference else {"pass"}
    chosen = {name: artifacts[name] for name in artifacts if name in reports and reports[name].status in fit}
    if not chosen:
        return {}
    key = run.key(
        "measure", tools=("bench", "export"), artifacts={name: digest(one) for name, one in chosen.items()}, spec=recipe.bench,
        machine=machine(), device=run.device, threads=cores_count(), seed=recipe.seed,
    )  # fmt: skip
    folder = run.folder / "measurements"
    known = {name: _reused(run, Measurement, folder / f"{one.name}.json", key) for name, one in chosen.items()}
    measured = {name: record for name, record in known.items() if record is not None}
    if len(measured) == len(chosen):
        run.console.stage("measure", f"measured {next(iter(measured.values())).observed.at}, reused")
        return measured
    names = {one.name: name for name, one in chosen.items()}
    samples = run.folder / "parity" / "reference" / SAMPLES
    session = Session(
        folders={one: run.folder / "artifacts" / one for one in names}, source=trained.source, options=_options(run), spec=recipe.bench,
        samples=samples if samples.exists() else None, seed=recipe.seed, key=key,
    )  # fmt: skip
    with run.console.bar("measure", recipe.bench.processes_count) as advance:
        records, dropped = measure_session(session, run.desk, advance)
    for one, outcome in dropped.items():
        failures[names[one]] = _failure(run, "measure", outcome)
    for one, record in records.items():
        write(folder / f"{one}.json", record)
    duration_s = sum(record.observed.duration_s for record in list(records.values())[:1])
    run.console.stage("measure", f"{len(records)} candidates in {recipe.bench.processes_count} fresh processes, {duration_s:.1f} s")
    return {names[one]: record for one, record in records.items()}


def judge(
    run: Run, trained: Trained, artifacts: Mapping[str, Artifact], reports: Mapping[str, ParityReport],
    measurements: Mapping[str, Measurement], failures: Failures,
) -> Verdict:  # fmt: skip
    """The verdict over everything that is known, kept as it is where nothing changed."""
    recipe = run.found.recipe
    evidence = [
        Evidence(
            name=backends.artifact_name(name, run.device), backend=name, required=name in recipe.required,
            artifact=artifacts.get(name), parity=reports.get(name), measurement=measurements.get(name), failure=failures.get(name),
        )
        for name in recipe.backends
    ]  # fmt: skip
    verdict = weigh(
        digest(run.record), recipe.name, evidence, recipe.limits, trained.checkpoint.metrics,
        allow_no_reference=recipe.parity.allow_no_reference,
    )  # fmt: skip
    path = run.folder / "verdict.json"
    try:
        if digest(known := read(Verdict, path)) == digest(verdict):
            return known
    except RecordError:
        pass  # none yet, or of an older form: this one replaces it
    write(path, verdict)
    return verdict


def _reference(run: Run, trained: Trained, signature: Signature) -> Reference:
    """The inputs of every parity case, and the model's own answers in float64 and float32."""
    recipe = run.found.recipe
    sizes = case_sizes(signature, recipe.parity.batch_rows)
    key = run.key(
        "reference", tools=("bench", "export"), checkpoint=digest(trained.checkpoint), signature=signature, sizes=sizes, seed=recipe.seed,
        device=run.device,
    )  # fmt: skip

    def make(folder: Path) -> None:
        job = ReferenceJob(
            source=trained.source, signature=signature, sizes=sizes, samples=_save_samples(run, folder), seed=recipe.seed,
            device=run.device, key=key, checkpoint_sha256=digest(trained.checkpoint), folder=str(folder),
        )  # fmt: skip
        outcome = run_child("reference", "bench.parity.jobs:reference", job, run.desk)
        if outcome.status != "done":
            raise UserError(f"the model cannot answer its own parity inputs ({outcome.status}): {outcome.cause}\nThe whole story: {outcome.log}")

    reference, _ = run.stage("parity/reference", Reference, "reference.json", key, make)
    return reference


def _save_samples(run: Run, folder: Path) -> str | None:
    """Real rows for parity and measurement, of the test split where there is one."""
    recipe = run.found.recipe
    if recipe.data is None:
        return None
    training.seed_everything(recipe.seed, run.device)
    data = recipe.data()
    split = data.test or data.train
    path = folder / SAMPLES
    save_file({name: rows[:_SAMPLE_ROWS].contiguous().clone() for name, rows in split.inputs.items()}, path)
    return str(path)


def _complete_signature(run: Run) -> Signature:
    """The recipe's signature with its outputs, found by running a fresh model."""
    recipe = run.found.recipe
    torch.manual_seed(recipe.seed)
    return complete(recipe.model(), recipe.signature, recipe.seed)


def _given_weights_sha256(run: Run) -> str:
    """Of a model that arrives with its weights: they are part of what the run depends on."""
    recipe = run.found.recipe
    training.seed_everything(recipe.seed, "cpu")
    state = recipe.model().state_dict()
    return key_of(**{name: training.tensor_sha256(tensor) for name, tensor in state.items()})


def _options(run: Run) -> LoadOptions:
    return LoadOptions(device=run.device, threads_count=cores_count())


def _reused(run: Run, kind: type[R], path: Path, key: str) -> R | None:
    """A record that this run, or another of the same recipe, has under ``key``."""
    relative = path.relative_to(run.folder)
    for candidate in [path, *sorted(run.folder.parent.glob(f"*/{relative}"))]:
        if not candidate.exists():
            continue
        try:
            record = read(kind, candidate)
        except RecordError as error:
            run.console.say(f"made again: {error}")
            continue
        if record.key == key:  # type: ignore[attr-defined]  # every record of a stage has one
            if candidate != path:
                write(path, record)
            return record
    return None


class _ChildFailed(Exception):  # noqa: N818 - carries an outcome through a stage's rollback, never shown
    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.cause)
        self.outcome = outcome


def _demand(outcome: Outcome) -> None:
    if outcome.status != "done":
        raise _ChildFailed(outcome)


def _failure(run: Run, step: str, outcome: Outcome) -> Failure:
    return Failure(
        step=step,
        cause=f"{outcome.status}: {outcome.cause}",
        log=str(outcome.log.relative_to(run.folder)),
        reproduce=str(outcome.reproduce.relative_to(run.folder)),
    )


def _sort(run: Run, stage: str, names: Iterable[str], one: Callable[[str], T | Failure], failures: Failures) -> dict[str, T]:
    """Do ``one`` for every name, as many at once as there are cores; part the good from the failed, in table order."""
    results: dict[str, T] = {}
    order = list(names)
    with run.console.bar(stage, len(order)) as advance, ThreadPoolExecutor(cores_count()) as pool:
        for done, (name, result) in enumerate(zip(order, pool.map(one, order), strict=True), 1):
            advance(done)
            if isinstance(result, Failure):
                failures[name] = result
                run.console.stage(stage, f"{name}: {result.cause}")
            else:
                results[name] = result
    return {name: results[name] for name in run.found.recipe.backends if name in results}


def _facts(artifact: Artifact) -> str:
    return ", ".join([artifact.facts["form"], *(f"{name} {artifact.facts[name]}" for name in ("opset",) if name in artifact.facts)])


def _parity_line(report: ParityReport) -> str:
    if report.status == "pass" and report.worst_ratio is not None:
        return f"pass, largest error {report.worst_ratio:.2f} times eager's"
    return f"{report.status}: {report.reasons[0] if report.reasons else ''}"

