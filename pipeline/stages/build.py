"""From the traced program, or the module, to every artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bench.verdict.entry import Entry
from bench.verdict.judge import Failure
from export import registry
from export.artifact import RECORD, Artifact, ProgramRecord
from export.build import BuildJob, apart
from export.build import build as build_task
from export.environment import machine
from export.files import digest_file
from export.foreign.adopt import AdoptJob, adopt
from export.record import digest
from export.roads import detour
from export.worker import Done, Failed, Workspace
from pipeline.run import Run
from pipeline.stages.children import ChildFailed, Failures, demand, failure, side_by_side
from pipeline.stages.refused import key_without, known
from pipeline.stages.train import Trained, calibration_rows


def build(
    run: Run,
    trained: Trained,
    program: ProgramRecord,
    failures: Failures,
    beside: Callable[[], object] = lambda: None,
) -> dict[str, Artifact]:
    """Every artifact that can be built, side by side; why another cannot be goes into ``failures``.

    ``beside`` is what else can be made of the program while exporters, most of them on one core, take their time.
    """
    entries, files = run.found.recipe.entries, run.found.recipe.artifacts
    stage = BuildStage(run, trained, program)

    def attempt(name: str) -> Artifact | Failure:
        try:
            if name in files:
                return _adopt_one(run, trained, program, entries[name], files[name])
            return stage.built(name)
        except ChildFailed as failed:
            return failure(run, "build", failed.end)

    wanted = [name for name in entries if name not in failures]
    costliest_first = sorted(wanted, key=lambda name: 0 if name in files else -entries[name].backend.build_cost)
    return side_by_side(run, "build", costliest_first, attempt, failures, beside=beside)


class BuildStage:
    """The builds of a run, from one program."""

    def __init__(self, run: Run, trained: Trained, program: ProgramRecord) -> None:
        self._run = run
        self._trained = trained
        self._program = program

    def built(self, name: str) -> Artifact:
        """The artifact of a backend, made or reused, without the roads that parity refused before."""
        run = self._run
        target = self.place(name)
        refused = known(run, run.files.refused_roads(target.name), self.key(name))
        key = key_without(self.key(name), refused.left_out)

        def make(folder: Path) -> None:
            demand(self.make(name, folder, refused.left_out, run.workspace))

        artifact, made = run.stage(target, Artifact, RECORD, key, make)
        facts = (
            [f"{artifact.observed.duration_s:.1f} s", _facts(artifact)] if made else ["reused", detour(artifact.facts)]
        )
        run.console.stage("build", f"{name}: {', '.join(filter(None, facts))}")
        return artifact

    def place(self, name: str) -> Path:
        """The folder of a backend's artifact."""
        return self._run.files.artifact(registry.get(name).artifact_name(self._run.device))

    def key(self, name: str) -> str:
        """The key of a backend's build with every road open."""
        run, backend = self._run, registry.get(name)
        calibration = self._calibration(name)
        return run.key(
            "build",
            tools=("export",),
            packages=backend.packages,
            backend=name,
            device=run.device,
            seed=run.found.recipe.seed,
            machine=machine() if backend.device_bound else None,
            checkpoint=digest(self._trained.checkpoint),
            program=digest(self._program),
            calibration=digest_file(calibration) if calibration else None,
            plugin=registry.plugin_sha256(name),
        )

    def make(self, name: str, folder: Path, left_out: Mapping[str, str], workspace: Workspace) -> Done[str] | Failed:
        """Fill an empty folder with a backend's artifact by one of the roads that are not left out."""
        run, calibration = self._run, self._calibration(name)
        job = BuildJob(
            backend=name,
            device=run.device,
            source=self._trained.source,
            signature=self._program.signature,
            seed=run.found.recipe.seed,
            key=key_without(self.key(name), left_out),
            checkpoint_sha256=digest(self._trained.checkpoint),
            program=str(run.files.program),
            folder=str(folder),
            calibration=str(calibration) if calibration else None,
            left_out=dict(left_out),
        )
        return apart(build_task, job, workspace, f"build-{name}")

    def _calibration(self, name: str) -> Path | None:
        return calibration_rows(self._run) if registry.get(name).calibrated else None


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
