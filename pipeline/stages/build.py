"""From the traced program, or the module, to every artifact."""

from __future__ import annotations

from pathlib import Path

from bench.verdict.entry import Entry
from bench.verdict.judge import Failure
from export import registry
from export.artifact import RECORD, Artifact, ProgramRecord
from export.build import BuildJob, build_apart
from export.environment import machine
from export.files import digest_file
from export.foreign.adopt import AdoptJob, adopt
from export.record import digest
from export.roads import detour
from pipeline.run import Run
from pipeline.stages.children import ChildFailed, Failures, demand, failure, side_by_side
from pipeline.stages.train import Trained, calibration_rows


def build(run: Run, trained: Trained, program: ProgramRecord, failures: Failures) -> dict[str, Artifact]:
    """Every artifact that can be built, side by side; why another cannot be goes into ``failures``."""
    entries, files = run.found.recipe.entries, run.found.recipe.artifacts

    def attempt(name: str) -> Artifact | Failure:
        try:
            if name in files:
                return _adopt_one(run, trained, program, entries[name], files[name])
            return _build_one(run, trained, program, name)
        except ChildFailed as failed:
            return failure(run, "build", failed.end)

    wanted = [name for name in entries if name not in failures]
    costliest_first = sorted(wanted, key=lambda name: 0 if name in files else -entries[name].backend.build_cost)
    return side_by_side(run, "build", costliest_first, attempt, failures)


def _build_one(run: Run, trained: Trained, program: ProgramRecord, name: str) -> Artifact:
    backend = registry.get(name)
    seed = run.found.recipe.seed
    checkpoint_sha256 = digest(trained.checkpoint)
    calibration = calibration_rows(run) if backend.calibrated else None
    key = run.key(
        "build",
        tools=("export",),
        packages=backend.packages,
        backend=name,
        device=run.device,
        seed=seed,
        machine=machine() if backend.device_bound else None,
        checkpoint=checkpoint_sha256,
        program=digest(program),
        calibration=digest_file(calibration) if calibration else None,
        plugin=registry.plugin_sha256(name),
    )

    def make(folder: Path) -> None:
        job = BuildJob(
            backend=name,
            device=run.device,
            source=trained.source,
            signature=program.signature,
            seed=seed,
            key=key,
            checkpoint_sha256=checkpoint_sha256,
            program=str(run.files.program),
            folder=str(folder),
            calibration=str(calibration) if calibration else None,
        )
        demand(build_apart(job, run.workspace, f"build-{name}"))

    target = run.files.artifact(backend.artifact_name(run.device))
    artifact, made = run.stage(target, Artifact, RECORD, key, make)
    summary = f"{artifact.observed.duration_s:.1f} s, {_facts(artifact)}" if made else "reused"
    run.console.stage("build", f"{name}: {summary}")
    return artifact


def _adopt_one(run: Run, trained: Trained, program: ProgramRecord, entry: Entry, file: Path) -> Artifact:
    """The artifact of a file that another tool made."""
    checkpoint_sha256 = digest(trained.checkpoint)
    files = {part: sha256 for part, sha256 in run.record.file_sha256.items() if part.startswith(f"{entry.name}: ")}
    key = run.key(
        "adopt",
        tools=("export",),
        backend=entry.backend_name,
        device=run.device,
        files=files,
        checkpoint=checkpoint_sha256,
        program=digest(program),
        plugin=registry.plugin_sha256(entry.backend_name),
    )

    def make(folder: Path) -> None:
        job = AdoptJob(
            name=entry.name,
            file=str(file.resolve()),
            file_sha256=files,
            device=run.device,
            signature=program.signature,
            key=key,
            checkpoint_sha256=checkpoint_sha256,
            program=str(run.files.program),
            folder=str(folder),
        )
        demand(run.workspace.run(adopt, job, f"build-{entry.name}"))

    artifact, made = run.stage(run.files.artifact(entry.name), Artifact, RECORD, key, make)
    run.console.stage("build", f"{entry.name}: {file.name}, {_facts(artifact) if made else 'reused'}")
    return artifact


def _facts(artifact: Artifact) -> str:
    opset, other_road = artifact.facts.get("opset"), detour(artifact.facts)
    return ", ".join(filter(None, [artifact.facts["form"], opset and f"opset {opset}", other_road]))
