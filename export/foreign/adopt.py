"""Taking a foreign file in: copied into an artifact's folder, its digests recorded, as if it had been built there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from export import registry
from export.artifact import FOREIGN_FILE, PROGRAM_RECORD, RECORD, Artifact, ProgramRecord
from export.errors import UserError
from export.files import digest_files
from export.foreign import files
from export.foreign.narrowed import narrowed
from export.record import digest, observed, read, write
from export.signature import Signature
from export.task import task


@dataclass(frozen=True, kw_only=True)
class AdoptJob:
    """Take ``file`` into ``folder`` (empty, to be published by the caller)."""

    name: str
    """What the artifact is called."""
    file: str
    file_sha256: dict[str, str]
    """What it and its parts were when the run began; see ``files.sha256``."""
    device: str
    signature: Signature
    """The model's, with its outputs."""
    key: str
    checkpoint_sha256: str
    program: str
    """The folder ``program/``."""
    folder: str


@task
def adopt(job: AdoptJob) -> str:
    """Leave the artifact's files and record. Returns its digest.

    Raises:
        UserError: the file is damaged, changed since the run began, or another model's.
    """
    started = time.monotonic()
    file, folder = Path(job.file), Path(job.folder)
    if files.sha256({job.name: file}) != job.file_sha256:  # before anything of it is loaded
        raise UserError(f"{file} has changed since the run began: start it again")
    program = read(ProgramRecord, Path(job.program) / PROGRAM_RECORD)
    backend, foreign_format = registry.of_foreign(file)
    adopted = foreign_format.adopt(file, job.signature, folder)
    artifact = Artifact(
        name=job.name,
        backend=backend.name,
        device=job.device,
        precision=narrowed(adopted.precision, program.precision) or program.precision,
        source_free=True,
        key=job.key,
        checkpoint_sha256=job.checkpoint_sha256,
        program_sha256=digest(program),
        signature=job.signature,
        files=digest_files(folder, (path for path in folder.rglob("*") if path.is_file())),
        facts=adopted.facts | {FOREIGN_FILE: file.name},
        observed=observed(time.monotonic() - started),
    )
    write(folder / RECORD, artifact)
    return digest(artifact)
