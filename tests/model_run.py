"""A small model with everything that its artifacts are judged by, made in the tests' own process."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from bench.parity.reference import Reference, ReferenceJob, reference
from bench.parity.report import ParityReport
from bench.parity.run import ParityRun
from bench.parity.spec import ParitySpec
from export.artifact import PROGRAM_RECORD, RECORD, Artifact, ProgramRecord
from export.backend import LoadOptions
from export.build import BuildJob, CaptureJob, Source, build, capture
from export.completion import complete
from export.files import digest_files
from export.record import read, write
from export.signature import Signature
from tests.inline import InlineWorkspace


class ModelRun:
    """A model, traced, with its reference; ``folder`` is filled at once."""

    def __init__(
        self, source: Source, signature: Signature, folder: Path, spec: ParitySpec | None = None, device: str = "cpu"
    ) -> None:
        self.source = source
        self.folder = folder
        self.device = device
        self.spec = spec or ParitySpec(rows_count=2048)
        module = source.module()
        self.signature = complete(module, signature, seed=0)
        self.program = folder / "program"
        self.program.mkdir(parents=True)
        self.capture(source, self.program)
        self.traced = read(ProgramRecord, self.program / PROGRAM_RECORD)
        self.signature = self.traced.signature
        self.weights = folder / "weights.safetensors"
        save_file({name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}, self.weights)
        self.reference_folder = folder / "reference"
        self.reference_folder.mkdir()
        job = ReferenceJob(
            source=source,
            signature=self.signature,
            spec=self.spec,
            real_rows=None,
            program=None if self.traced.failure else str(self.program),
            seed=0,
            device=device,
            key="k",
            checkpoint_sha256="c",
            folder=str(self.reference_folder),
        )
        reference(job)
        self.reference = read(Reference, self.reference_folder / "reference.json")

    def capture(self, source: Source, folder: Path) -> None:
        """Trace ``source`` into ``folder``."""
        capture(
            CaptureJob(
                source=source, signature=self.signature, seed=0, key="k", checkpoint_sha256="c", folder=str(folder)
            )
        )

    def build(
        self,
        backend: str,
        folder: Path,
        source: Source | None = None,
        program: Path | None = None,
        rows: Path | None = None,
    ) -> Path:
        """An artifact of the model; of another one, in its place, where a ``source`` is given.

        ``rows`` is a file of training rows, for backends that take ranges from them.
        """
        folder.mkdir(parents=True)
        if source is not None and program is None:
            program = Path(tempfile.mkdtemp(dir=self.folder, prefix="program-"))
            self.capture(source, program)
        job = BuildJob(
            backend=backend,
            device="cpu",
            source=source or self.source,
            signature=self.signature,
            seed=0,
            key="k",
            checkpoint_sha256="c",
            program=str(program or self.program),
            folder=str(folder),
            calibration=str(rows) if rows else None,
        )
        build(job)
        return folder

    @property
    def parity(self) -> ParityRun:
        """What artifacts of the model are judged by."""
        return ParityRun(
            reference=self.reference,
            reference_folder=self.reference_folder,
            program=self.traced,
            program_folder=self.program,
            weights=self.weights,
            variants=self.reference.variants,
            spec=self.spec,
            source=self.source,
        )

    def judge(self, artifact: Path, options: LoadOptions | None = None) -> ParityReport:
        """The report about an artifact."""
        workspace = InlineWorkspace(folder=self.folder / "log")
        report = self.parity.judge(artifact, options or LoadOptions(threads_count=2), workspace, "k")
        assert isinstance(report, ParityReport)
        return report


def vouch(folder: Path) -> None:
    """Make an artifact's record vouch for its files as they are now: the edit is then no tampering, but a fault."""
    artifact = read(Artifact, folder / RECORD)
    present = [folder / file.path for file in artifact.files]
    write(folder / RECORD, replace(artifact, files=digest_files(folder, present)))
