"""What export leaves on disk: the traced program, and each backend's artifact, with the digests that must hold before
anything of them is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from export.files import FileDigest, plain_name, verify_files
from export.record import Observed, Record, read
from export.signature import Signature

RECORD = "artifact.json"
PROGRAM_RECORD, PROGRAM_FILE = "program.json", "program.pt2"
FOREIGN_FILE = "foreign_file"
"""The fact that an artifact was made by another tool: what its file is called."""


@dataclass(frozen=True, kw_only=True)
class ProgramRecord(Record):
    """What lies in ``program/``: the traced graph, and the contract that it was found to keep."""

    SCHEMA: ClassVar[str] = "torchstone.program/3"

    key: str
    checkpoint_sha256: str
    signature: Signature
    """With its outputs."""
    files: tuple[FileDigest, ...]
    precision: str
    """Floating dtypes of the module's weights, such as ``float32``; of its inputs where it has none."""
    operators: tuple[str, ...]
    """The kinds of operator in the graph, sorted."""
    facts: dict[str, str]
    """By which road it was traced, and what those before it said; see export/roads.py."""
    failure: str | None
    """Why the model could not be traced; artifacts that need the graph then fail for this reason."""
    observed: Observed


@dataclass(frozen=True, kw_only=True)
class Artifact(Record):
    """One built form of a model, in the folder ``artifacts/<name>/``."""

    SCHEMA: ClassVar[str] = "torchstone.artifact/1"

    name: str
    """``<backend>``, with ``-<device>`` appended where the artifact is bound to one other than the CPU; of a foreign
    file what the user calls it."""
    backend: str
    device: str
    """The device that it is meant to run on."""
    precision: str
    """As the program's, or ``int8`` where the build quantised it."""
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

    def __post_init__(self) -> None:
        plain_name(self.name)

    @property
    def is_foreign(self) -> bool:
        """Whether another tool made it, so that nobody knows how."""
        return FOREIGN_FILE in self.facts

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size_bytes for file in self.files)


def verified_program(folder: Path) -> Path:
    """The traced program's file in ``program/``, checked against its record.

    Raises:
        RecordError: the file is missing or altered.
    """
    verify_files(folder, read(ProgramRecord, folder / PROGRAM_RECORD).files)
    return folder / PROGRAM_FILE


def read_artifact(folder: Path) -> Artifact:
    """An artifact's record alone; its files are checked where they are loaded."""
    return read(Artifact, folder / RECORD)


def open_artifact(folder: Path) -> Artifact:
    """Read an artifact's record and check every file against it, before anything is loaded.

    Raises:
        RecordError: a file is missing or altered.
    """
    artifact = read_artifact(folder)
    verify_files(folder, artifact.files)
    return artifact
