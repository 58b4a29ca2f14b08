"""``pytest bench/``: what the artifacts of a run do here and now, one loaded at a time.

These figures are a quick look and a gate against breakage. Claims about speed come from the run's report: there the
candidates are interleaved in fresh processes, here they run one after another and drift is read as difference.

The run is the latest of the default recipe unless ``--run`` names another; where there is none, the pipeline makes it.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.parity.cases import Pool, Tensors
from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from bench.verdict.judge import Row, Verdict
from export import hints, registry
from export.artifact import Artifact, open_artifact, read_artifact
from export.backend import LoadOptions, Runner
from export.environment import cores_count
from export.errors import RecordError, UserError
from export.record import digest, read

SOURCE_FREE = tuple(name for name in registry.names() if registry.get(name).source_free)
BATCH_ROWS = (1, 32, 1024)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One artifact of a run, not yet loaded."""

    folder: Path
    artifact: Artifact
    parity: ParityReport
    row: Row
    samples: Path | None
    """Real rows, and what functions drew, as safetensors."""

    def load(self) -> Runner:
        """Verify and load it, ONNX Runtime's spinning off."""
        return registry.load(self.folder, LoadOptions(device=self.artifact.device, threads_count=cores_count()))

    def inputs(self, batch_rows: int) -> Tensors:
        """Real rows, ``batch_rows`` of them; skips where the signature does not allow so many."""
        signature = self.artifact.signature
        if signature.batch and batch_rows not in signature.ranges[signature.batch]:
            pytest.skip(f"the signature allows no batch of {batch_rows}")
        if signature.batch is None and batch_rows != 1:
            pytest.skip("the signature has no batch dimension")
        try:
            return Pool(signature=signature, samples=_load(self.samples), seed=0).call(batch_rows)
        except UserError as error:  # a function's draw that was not kept
            pytest.skip(str(error))

    def facts(self, batch_rows: int) -> dict[str, object]:
        """What a stored benchmark should say of itself: the artifact, its proof, and the report's own figure."""
        speed = next((speed for speed in self.row.speeds if speed.batch_rows == batch_rows), None)
        ratio = speed.to_eager.ratio if speed and speed.to_eager else None
        return {
            "artifact_sha256": digest(self.artifact),
            "parity_sha256": digest(self.parity),
            "witness": self.parity.witness.evidence,
            "report_ratio_to_eager": [ratio.value, ratio.low, ratio.high] if ratio else None,
        }


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--run FOLDER``."""
    parser.addoption("--run", default=None, help="folder of a run, or artifacts/<recipe>/latest")


@pytest.fixture(scope="session")
def run_folder(request: pytest.FixtureRequest) -> Path:
    """The run to look at; made by the pipeline, as a child, where it is missing."""
    named = request.config.getoption("--run")
    folder = Path(named) if named else Path(request.config.rootpath) / "artifacts" / "seed" / "latest"
    if not RunFolder(folder).verdict.is_file():
        if named:
            raise pytest.UsageError(f"--run {named}: no verdict.json there; {hints.command('run')} makes a run")
        subprocess.run([sys.executable, "-m", "pipeline.all"], check=False, cwd=request.config.rootpath)
    return folder.resolve()


@pytest.fixture(params=SOURCE_FREE)
def bench(request: pytest.FixtureRequest, run_folder: Path) -> Bench:
    """Each artifact of the run, one at a time."""
    files = RunFolder(run_folder)
    verdict = read(Verdict, files.verdict)
    names = [name for name in files.artifact_names() if _backend(files.artifact(name)) == request.param]
    if not names:
        pytest.skip(f"this run has no {request.param} artifact")
    folder = files.artifact(names[0])
    artifact = open_artifact(folder)
    if not files.parity_report(artifact.name).exists():
        pytest.fail(f"{artifact.name} has no parity report: run its recipe again")
    return Bench(
        folder=folder,
        artifact=artifact,
        parity=read(ParityReport, files.parity_report(artifact.name)),
        row=next(row for row in verdict.rows if row.name == artifact.name),
        samples=files.existing_samples(),
    )


@functools.cache
def _load(path: Path | None) -> Tensors:
    from safetensors.numpy import load_file

    return dict(load_file(path)) if path else {}


def _backend(folder: Path) -> str:
    """The backend in an artifact's record; an altered record still counts as found, and fails where it is opened."""
    try:
        return read_artifact(folder).backend
    except RecordError:
        return folder.name
