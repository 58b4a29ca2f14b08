"""An artifact: what one backend's build left on disk, with the digests that must hold before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from export.record import FileDigest, Observed, Record, read, verify_files
from export.signature import Signature

RECORD = "artifact.json"


@dataclass(frozen=True, kw_only=True)
class Artifact(Record):
    """One built form of a model, in the folder ``artifacts/<name>/``."""

    SCHEMA: ClassVar[str] = "torchstone.artifact/1"

    name: str
    """``<backend>``, with ``-<device>`` appended where the artifact is bound to one other than the CPU."""
    backend: str
    device: str
    """The device that it is meant to run on."""
    precision: str
    source_free: bool
    """Whether it runs where the model's Python source cannot be imported."""
    key: str
    checkpoint_sha256: str
    program_sha256: str
    signature: Signature
    files: tuple[FileDigest, ...]
    facts: dict[str, str]
    """What the build found out: opset, scripted or traced and why, what was compiled."""
    observed: Observed

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size_bytes for file in self.files)


def open_artifact(folder: Path) -> Artifact:
    """Read an artifact's record and check every file against it, before anything is loaded.

    Raises:
        RecordError: a file is missing or altered.
    """
    artifact = read(Artifact, folder / RECORD)
    verify_files(folder, artifact.files)
    return artifact
