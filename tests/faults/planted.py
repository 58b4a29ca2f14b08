"""From a kind of fault to an artifact that has it, judged and located."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.locate.job import LocateJob, Location, likeliest_cases, locate
from bench.parity.jobs import INPUTS
from bench.parity.report import ParityReport
from bench.parity.store import load_case
from export import backend as backends
from export.arrays import to_numpy
from export.backend import LoadOptions
from export.record import to_json
from tests.faults.files import IN_FILES, IN_ONNX, edit_onnx
from tests.faults.kinds import IN_THE_MODEL, Kind
from tests.faults.models import SIGNATURES, make, source
from tests.prover import Prover

KINDS = [*IN_THE_MODEL, *IN_ONNX, *IN_FILES]


@dataclass(frozen=True)
class Planted:
    """An artifact with a fault."""

    folder: Path
    module: str | None
    """Where the fault lies; None where it has no place."""


class Provers:
    """The reference of every model and the right artifacts, each made once."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._provers: dict[str, Prover] = {}

    def __call__(self, model: str) -> Prover:
        if model not in self._provers:
            self._provers[model] = Prover(source(model), SIGNATURES[model], self.base / model)
        return self._provers[model]

    def right(self, model: str, backend: str) -> Path:
        """The artifact as it should be."""
        folder = self.base / model / backend
        return folder if folder.exists() else self(model).build(backend, folder)


def plant(kind: Kind, model: str, backend: str, provers: Provers) -> Planted:
    """Make the artifact."""
    prover = provers(model)
    folder = Path(tempfile.mkdtemp(dir=prover.folder, prefix="planted-")) / "artifact"
    if kind.where == "model":
        where = kind.edit(make(source(model).argument))
        prover.build(backend, folder, source(model, fault=kind.name))
    else:
        shutil.copytree(provers.right(model, backend), folder)
        where = edit_onnx(folder, kind.edit) if kind.where == "onnx" else kind.edit(folder)
    return Planted(folder, where if kind.placed else None)


def judged(provers: Provers, model: str, planted: Planted) -> ParityReport | str:
    """The report; in words why the artifact does not even load."""
    try:
        return provers(model).judge(planted.folder)
    except Exception as error:  # noqa: BLE001 - each runtime refuses a broken file in its own type
        return f"{type(error).__name__}: {error}"


def located(provers: Provers, model: str, planted: Planted, report: ParityReport | str) -> Location:
    """What the locator says."""
    prover = provers(model)
    job = LocateJob(
        artifact=str(planted.folder),
        program=str(prover.program),
        reference=str(prover.reference_folder),
        weights=str(prover.weights),
        cases=(0,) if isinstance(report, str) else likeliest_cases(report, prover.reference),
        options=LoadOptions(threads_count=2),
    )
    return locate(to_json(job))


def is_right(location: Location, module: str, *, exactly: bool = False) -> bool:
    """Whether the named place is the module at fault, or within it; ``exactly``: without what it names in between."""
    if location.suspect is None:
        return False
    named = {location.suspect.module, *(() if exactly else location.suspect.between)}
    return any(one == module or (module and one.startswith(f"{module}.")) for one in named)


def undone(provers: Provers, model: str, backend: str, planted: Planted) -> bool:
    """Whether the exporter took the fault out again: the artifact answers every case as the right one does, to the bit.

    PyTorch's ONNX exporter leaves dropout out even where it was left on, and a product with 1.000001 too.
    """
    prover = provers(model)
    names = [spec.name for spec in prover.signature.inputs]
    runners = [backends.load(folder, LoadOptions()) for folder in (planted.folder, provers.right(model, backend))]
    for index in range(len(prover.reference.cases)):
        inputs = load_case(prover.reference_folder / INPUTS, index, names)
        one, two = (runner(inputs) for runner in runners)
        if any(to_numpy(one[name]).tobytes() != to_numpy(two[name]).tobytes() for name in one):
            return False
    return True


def caught(kind: Kind, report: ParityReport | str) -> bool:
    """Whether the right level failed."""
    if isinstance(report, str):
        return "load" in kind.levels
    return report.status == "fail" and bool(set(kind.levels) & set(report.failed_levels))
