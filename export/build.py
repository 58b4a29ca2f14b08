"""The two tasks that turn a module into files, each run in a process of its own: ``capture`` and ``build``."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export import registry
from export.artifact import PROGRAM_FILE, PROGRAM_RECORD, RECORD, Artifact, ProgramRecord
from export.backend import BuildInput
from export.errors import UserError
from export.files import digest_files, verify_files
from export.record import digest, observed, read, write
from export.signature import Signature
from export.task import resolve, task

if TYPE_CHECKING:
    from torch import nn


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
class CaptureJob:
    """Trace ``source`` into ``folder`` (empty, to be published by the caller)."""

    source: Source
    signature: Signature
    seed: int
    key: str
    checkpoint_sha256: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """Build one backend's artifact into ``folder`` (empty, to be published by the caller)."""

    backend: str
    device: str
    source: Source
    signature: Signature
    seed: int
    key: str
    checkpoint_sha256: str
    program: str
    """The folder ``program/``."""
    folder: str
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
    module = job.source.module()
    try:
        program = programs.capture(module, job.signature, job.seed)
        with programs.quiet():
            torch.export.save(program.exported, folder / PROGRAM_FILE)
        operators = [str(node.target) for node in program.exported.graph.nodes if node.op == "call_function"]
    except UserError as error:
        traceback.print_exc()  # PyTorch's own text, for the log
        failure = str(error)
    precision, duration_s = programs.precision(module, job.signature), time.monotonic() - started
    record = program_record(job, precision, failure, duration_s, operators)
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
        if program.failure:
            raise UserError(program.failure)
        verify_files(program_folder, program.files)
    facts = backend.build(
        BuildInput(
            signature=job.signature,
            seed=job.seed,
            device=job.device,
            module=job.source.module,
            program_file=program_folder / PROGRAM_FILE,
            calibration=Path(job.calibration) if job.calibration else None,
        ),
        folder,
    )
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
        facts=facts,
        observed=observed(time.monotonic() - started),
    )
    write(folder / RECORD, artifact)
    return digest(artifact)
