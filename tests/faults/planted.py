"""From a kind of fault to an artifact that has it, judged and located."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.locate.job import LocateJob, Location, likeliest_cases, locate
from bench.parity.reference import INPUTS
from bench.parity.report import ParityReport
from bench.parity.store import load_case
from export import registry
from export.arrays import to_numpy
from export.backend import LoadOptions
from tests.faults.files import IN_FILES, IN_ONNX, edit_onnx
from tests.faults.kinds import IN_THE_MODEL, Kind
from tests.faults.models import SIGNATURES, make, source
from tests.model_run import ModelRun

KINDS = [*IN_THE_MODEL, *IN_ONNX, *IN_FILES]


@dataclass(frozen=True)
class Planted:
    """An artifact with a fault."""

    folder: Path
    module: str | None
    """Where the fault lies; None where it has no place."""


class ModelRuns:
    """The reference of every model and the right artifacts, each made once."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._runs: dict[str, ModelRun] = {}

    def __call__(self, model: str) -> ModelRun:
        if model not in self._runs:
            self._runs[model] = ModelRun(source(model), SIGNATURES[model], self.base / model)
        return self._runs[model]

    def right(self, model: str, backend: str) -> Path:
        """The artifact as it should be."""
        folder = self.base / model / backend
        return folder if folder.exists() else self(model).build(backend, folder)


def plant(kind: Kind, model: str, backend: str, runs: ModelRuns) -> Planted:
    """Make the artifact."""
    run = runs(model)
    folder = Path(tempfile.mkdtemp(dir=run.folder, prefix="planted-")) / "artifact"
    if kind.where == "model":
        where = kind.edit(make(source(model).argument))
        run.build(backend, folder, source(model, fault=kind.name))
    else:
        shutil.copytree(runs.right(model, backend), folder)
        where = edit_onnx(folder, kind.edit) if kind.where == "onnx" else kind.edit(folder)
    return Planted(folder, where if kind.placed else None)


def judged(runs: ModelRuns, model: str, planted: Planted) -> ParityReport | str:
    """The report; in words why the artifact does not even load."""
    try:
        return runs(model).judge(planted.folder)
    except Exception as error:  # noqa: BLE001 - each runtime refuses a broken file in its own type
        return f"{type(error).__name__}: {error}"


def located(runs: ModelRuns, model: str, planted: Planted, report: ParityReport | str) -> Location:
    """What the locator says."""
    run = runs(model)
    job = LocateJob(
        artifact=str(planted.folder),
        program=str(run.program),
        reference=str(run.reference_folder),
        weights=str(run.weights),
        cases=(0,) if isinstance(report, str) else likeliest_cases(report, run.reference),
        options=LoadOptions(threads_count=2),
    )
    return locate(job)


def is_right(location: Location, module: str, *, exactly: bool = False) -> bool:
    """Whether the named place is the module at fault, or within it; ``exactly``: without what it names in between."""
    if location.suspect is None:
        return False
    named = {location.suspect.module, *(() if exactly else location.suspect.between)}
    return any(one == module or (module and one.startswith(f"{module}.")) for one in named)


def undone(runs: ModelRuns, model: str, backend: str, planted: Planted) -> bool:
    """Whether the exporter took the fault out again: the artifact answers every case as the right one does, to the bit.

    PyTorch's ONNX exporter leaves dropout out even where it was left on, and a product with 1.000001 too.
    """
    run = runs(model)
    names = [spec.name for spec in run.signature.inputs]
    runners = [registry.load(folder, LoadOptions()) for folder in (planted.folder, runs.right(model, backend))]
    for index in range(len(run.reference.cases)):
        inputs = load_case(run.reference_folder / INPUTS, index, names)
        one, two = (runner(inputs) for runner in runners)
        if any(to_numpy(one[name]).tobytes() != to_numpy(two[name]).tobytes() for name in one):
            return False
    return True


def caught(kind: Kind, report: ParityReport | str) -> bool:
    """Whether the right level failed."""
    if isinstance(report, str):
        return "load" in kind.levels
    return report.status == "fail" and bool(set(kind.levels) & set(report.failed_levels))
