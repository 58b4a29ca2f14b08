"""From a checkpoint to the traced program, and from that to every artifact."""

from __future__ import annotations

from pathlib import Path

from bench.verdict.judge import Failure
from export import backend as backends
from export.artifact import PROGRAM_RECORD, RECORD, Artifact, ProgramRecord
from export.build import BuildJob, CaptureJob, program_record
from export.environment import machine
from export.exporters.quantize import PRECISION
from export.record import digest, digest_file, write
from export.worker import run_child
from pipeline.run import Run
from pipeline.stages.children import ChildFailed, Failures, demand, failure, side_by_side
from pipeline.stages.train import Trained, calibration_rows, complete_signature

_SLOWEST_FIRST = (
    "aotinductor",
    "compile",
    "openvino-int8",
    "onnx-int8",
    "openvino",
    "onnx",
    "onnx-legacy",
    "torchscript",
    "exported",
    "eager",
)
"""The order in which builds start: the long ones first, the short ones fill the gaps."""


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
        outcome = run_child("capture", "export.build:capture", job, run.workspace)
        if outcome.status != "done":
            cause = failure(run, "capture", outcome).cause
            write(folder / PROGRAM_RECORD, program_record(job, "unknown", f"tracing {cause}", outcome.duration_s))

    program, made = run.stage(
        "program", ProgramRecord, PROGRAM_RECORD, key, make, usable=lambda record: record.failure is None
    )
    run.console.stage(
        "capture", program.failure or (f"traced in {program.observed.duration_s:.1f} s" if made else "reused")
    )
    return program


def build(run: Run, trained: Trained, program: ProgramRecord, failures: Failures) -> dict[str, Artifact]:
    """Every artifact that can be built, side by side; why another cannot be goes into ``failures``."""

    def one(name: str) -> Artifact | Failure:
        try:
            return _build_one(run, trained, program, name)
        except ChildFailed as failed:
            return failure(run, "build", failed.outcome)

    wanted = [name for name in sorted(run.found.recipe.backends, key=_SLOWEST_FIRST.index) if name not in failures]
    return side_by_side(run, "build", wanted, one, failures)


def _build_one(run: Run, trained: Trained, program: ProgramRecord, name: str) -> Artifact:
    backend = backends.get(name)
    seed = run.found.recipe.seed
    checkpoint_sha256 = digest(trained.checkpoint)
    calibration = calibration_rows(run) if name.endswith(PRECISION) else None
    key = run.key(
        "build",
        tools=("export",),
        packages=backend.PACKAGES,
        backend=name,
        device=run.device,
        seed=seed,
        machine=machine() if backend.DEVICE_BOUND else None,
        checkpoint=checkpoint_sha256,
        program=digest(program),
        **({"calibration": digest_file(calibration)} if calibration else {}),
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
            program=str(run.folder / "program"),
            folder=str(folder),
            calibration=str(calibration) if calibration else None,
        )
        demand(run_child(f"build-{name}", "export.build:build", job, run.workspace))

    where = f"artifacts/{backends.artifact_name(name, run.device)}"
    artifact, made = run.stage(where, Artifact, RECORD, key, make)
    summary = f"{artifact.observed.duration_s:.1f} s, {_facts(artifact)}" if made else "reused"
    run.console.stage("build", f"{name}: {summary}")
    return artifact


def _facts(artifact: Artifact) -> str:
    opset = artifact.facts.get("opset")
    return artifact.facts["form"] + (f", opset {opset}" if opset else "")
