"""The two tasks that turn a module into files, each run in a process of its own: ``capture`` and ``build``."""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from export import registry
from export.artifact import PROGRAM_FILE, PROGRAM_RECORD, RECORD, Artifact, ProgramRecord
from export.backend import BuildInput
from export.errors import UserError
from export.exporters.narrowing import narrow, witnessed
from export.files import digest_files, verify_files
from export.record import digest, observed, read, write
from export.roads import Trail, detour
from export.signature import Signature
from export.task import Task, resolve, task
from export.worker import Done, Failed, Workspace

if TYPE_CHECKING:
    from torch import nn

J = TypeVar("J", bound="RoadJob")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a process that may see the model's source finds it: ``function(argument)`` returns the module."""

    function: str
    """``package.module:function``; the module it returns has its trained weights, on the CPU, in eval mode."""
    argument: str

    def module(self) -> nn.Module:
        """Import the source, build the module."""
        module: nn.Module = resolve(self.function)(self.argument)
        return module


@dataclass(frozen=True, kw_only=True)
class RoadJob:
    """Make something of ``source`` in ``folder`` (empty, to be published by the caller), by one of several roads."""

    source: Source
    signature: Signature
    seed: int
    key: str
    checkpoint_sha256: str
    folder: str
    left_out: dict[str, str] = field(default_factory=dict)
    """Roads that have ended an earlier process, or whose work was refused, and why."""

    @property
    def trail(self) -> Trail:
        """Where the process leaves word of the road that it is on: beside the folder."""
        folder = Path(self.folder)
        return Trail(file=folder.with_name(f".{folder.name}.road"), left_out=self.left_out)


@dataclass(frozen=True, kw_only=True)
class CaptureJob(RoadJob):
    """Trace ``source``."""


@dataclass(frozen=True, kw_only=True)
class BuildJob(RoadJob):
    """Build one backend's artifact."""

    backend: str
    device: str
    program: str
    """The folder ``program/``."""
    calibration: str | None = None
    """Training rows, for backends that take ranges from them."""


@task
def capture(job: CaptureJob) -> str:
    """Leave ``program/``'s files and record, with the reason if the model cannot be traced. Returns its digest."""
    import torch

    from export import program as programs

    started = time.monotonic()
    folder = Path(job.folder)
    failure = None
    operators: list[str] = []
    facts: dict[str, str] = {}
    module = job.source.module()
    signature = job.signature
    try:
        with job.trail.kept():
            program = programs.capture(module, signature, job.seed)
        signature = program.signature
        with programs.quiet():
            torch.export.save(program.exported, folder / PROGRAM_FILE)
        facts = program.facts
        operators = [str(node.target) for node in program.exported.graph.nodes if node.op == "call_function"]
    except UserError as error:
        traceback.print_exc()  # PyTorch's own text, for the log
        failure = str(error)
    precision, duration_s = programs.precision(module, job.signature), time.monotonic() - started
    record = program_record(replace(job, signature=signature), precision, failure, duration_s, operators)
    record = replace(record, facts=facts)
    write(folder / PROGRAM_RECORD, record)
    return digest(record)


def program_record(
    job: CaptureJob, precision: str, failure: str | None, duration_s: float, operators: Iterable[str] = ()
) -> ProgramRecord:
    """The record of what lies in the job's folder; also that of a capture that crashed, with the reason."""
    folder = Path(job.folder)
    return ProgramRecord(
        key=job.key,
        checkpoint_sha256=job.checkpoint_sha256,
        signature=job.signature,
        files=() if failure else digest_files(folder, [folder / PROGRAM_FILE]),
        precision=precision,
        operators=tuple(sorted(set(operators))),
        facts={},
        failure=failure,
        observed=observed(duration_s),
    )


@task
def build(job: BuildJob) -> str:
    """Leave one artifact's files and record. Returns its digest."""
    started = time.monotonic()
    folder = Path(job.folder)
    backend = registry.get(job.backend)
    program_folder = Path(job.program)
    program = read(ProgramRecord, program_folder / PROGRAM_RECORD)
    if backend.needs_program:
        if program.failure is None:
            verify_files(program_folder, program.files)
        elif not backend.other_roads:
            raise UserError(program.failure)
    if job.signature.has_draw_functions:
        job.source.module()  # with the recipe come its functions
    source = BuildInput(
        signature=job.signature,
        seed=job.seed,
        device=job.device,
        module=job.source.module,
        program_file=program_folder / PROGRAM_FILE,
        program_failure=program.failure,
        calibration=Path(job.calibration) if job.calibration else None,
    )
    with tempfile.TemporaryDirectory(prefix="torchstone-build-") as scratch, job.trail.kept():
        narrowed = narrow(source, backend.precision, Path(scratch))
        facts = backend.build(narrowed.source, folder) | narrowed.facts
    artifact = Artifact(
        name=backend.artifact_name(job.device),
        backend=job.backend,
        device=job.device,
        precision=backend.precision or program.precision,
        source_free=backend.source_free,
        key=job.key,
        checkpoint_sha256=job.checkpoint_sha256,
        program_sha256=digest(program),
        signature=job.signature,
        files=digest_files(folder, (path for path in folder.rglob("*") if path.is_file())),
        facts=facts | _of_program(program) if backend.needs_program else facts,
        observed=observed(time.monotonic() - started),
    )
    artifact = witnessed(artifact, backend, folder, program.precision)
    write(folder / RECORD, artifact)
    return digest(artifact)


def apart(task: Task[J, str], job: J, workspace: Workspace, name: str) -> Done[str] | Failed:
    """Do a task in a process of its own; where a road ends that process, in another one that leaves the road out.

    Raises:
        OSError: the disk is full.
    """
    left_out = dict(job.left_out)
    while True:
        end = workspace.run(task, replace(job, left_out=left_out), name)
        file = job.trail.file
        if isinstance(end, Done) or not file.exists():
            return end
        road = file.read_text(encoding="utf-8")
        file.unlink()
        if road in left_out:
            return end
        left_out[road] = f"its process {end.summary}"
        for path in Path(job.folder).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _of_program(program: ProgramRecord) -> dict[str, str]:
    """What an artifact made from the program says of how that was traced, where it was not as usual."""
    return {f"program_{name}": fact for name, fact in program.facts.items()} if detour(program.facts) else {}
