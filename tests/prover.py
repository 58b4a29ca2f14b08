"""Parity in the tests' own process: the reference of a model, and the judgement of any artifact by it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from bench.parity.jobs import Outputs, OutputsJob, Reference, ReferenceJob, outputs, reference
from bench.parity.report import ParityReport, compare
from bench.parity.spec import ParitySpec
from export.artifact import PROGRAM_RECORD, RECORD, Artifact, ProgramRecord, open_artifact
from export.backend import LoadOptions
from export.build import BuildJob, CaptureJob, Source, build, capture
from export.program import complete
from export.record import digest_files, from_json, read, to_json, write
from export.signature import Signature


class Prover:
    """A model, traced, with its reference; ``folder`` is filled at once."""

    def __init__(
        self, source: Source, signature: Signature, folder: Path, spec: ParitySpec | None = None, device: str = "cpu"
    ) -> None:
        self.source = source
        self.folder = folder
        self.spec = spec or ParitySpec(rows_count=2048)
        module = source.module()
        self.signature = complete(module, signature, seed=0)
        self.program = folder / "program"
        self.program.mkdir(parents=True)
        self.capture(source, self.program)
        self.traced = read(ProgramRecord, self.program / PROGRAM_RECORD)
        self.weights = folder / "weights.safetensors"
        save_file({name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}, self.weights)
        self.reference_folder = folder / "reference"
        self.reference_folder.mkdir()
        job = ReferenceJob(
            source=source,
            signature=self.signature,
            spec=self.spec,
            samples=None,
            program=None if self.traced.failure else str(self.program),
            seed=0,
            device=device,
            key="k",
            checkpoint_sha256="c",
            folder=str(self.reference_folder),
        )
        reference(to_json(job))
        self.reference = read(Reference, self.reference_folder / "reference.json")

    def capture(self, source: Source, folder: Path) -> None:
        """Trace ``source`` into ``folder``."""
        job = CaptureJob(
            source=source, signature=self.signature, seed=0, key="k", checkpoint_sha256="c", folder=str(folder)
        )
        capture(to_json(job))

    def build(self, backend: str, folder: Path, source: Source | None = None, program: Path | None = None) -> Path:
        """An artifact of the model; of another one, in its place, where a ``source`` is given."""
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
        )
        build(to_json(job))
        return folder

    def judge(self, artifact: Path, options: LoadOptions | None = None) -> ParityReport:
        """The report about an artifact."""
        options = options or LoadOptions(threads_count=2)
        answers = Path(tempfile.mkdtemp(dir=self.folder, prefix="answers-"))
        job = OutputsJob(
            artifact=str(artifact),
            options=options,
            source=self.source if read(Artifact, artifact / RECORD).backend == "eager" else None,
            reference=str(self.reference_folder),
            cases=self.reference.cases,
            program=None if self.traced.failure else str(self.program),
            weights=str(self.weights),
            outputs=str(answers),
        )
        answered = from_json(Outputs, to_json(outputs(to_json(job))))
        report = self.compare(open_artifact(artifact), answered, answers, options)
        shutil.rmtree(answers)
        return report

    def compare(self, artifact: Artifact, answered: Outputs, answers: Path, options: LoadOptions) -> ParityReport:
        return compare(
            artifact, self.reference, self.reference_folder, answered, answers, self.spec, options, "k", 0.0,
            self.reference.variants, operators=self.traced.operators,
        )  # fmt: skip


def vouch(folder: Path) -> None:
    """Make an artifact's record vouch for its files as they are now: the edit is then no tampering, but a fault."""
    artifact = read(Artifact, folder / RECORD)
    present = [folder / file.path for file in artifact.files]
    write(folder / RECORD, replace(artifact, files=digest_files(folder, present)))
