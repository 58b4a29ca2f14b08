"""What became of one architecture: per backend whether it passed, was refused, or never came to be, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from export.errors import RecordError
from export.record import from_json, read, to_json

BACKENDS = ("eager", "torchscript", "exported", "onnx")
Status = Literal["pass", "refused", "no artifact", "not judged"]
STATUSES: tuple[Status, ...] = get_args(Status)
_RANKS: Mapping[Status, int] = {"pass": 2, "refused": 1, "no artifact": 1, "not judged": 0}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One backend of one architecture."""

    backend: str
    status: Status
    levels: tuple[str, ...] = ()
    """Those of parity that fail; of a refusal only."""
    reason: str = ""
    """One sentence; empty for a pass."""

    @property
    def rank(self) -> int:
        """How good it is: a lower one than before is a regression."""
        return _RANKS[self.status]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One architecture."""

    name: str
    kind: str
    seconds: float
    cells: tuple[Cell, ...]


def outcomes(file: Path) -> list[Outcome]:
    """The lines of a file; none if there is no file yet."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [from_json(Outcome, json.loads(line), f"{file}:{number}") for number, line in enumerate(lines, 1)]


def line(outcome: Outcome) -> str:
    """One line of such a file."""
    return json.dumps(to_json(outcome), ensure_ascii=False) + "\n"


def cells(out: Path, name: str, printed: str, ending: str | None) -> tuple[Cell, ...]:
    """What a run left: its parity reports, and for backends without one what the command printed of them.

    ``ending`` is why the run ended before its end; every backend of which nothing is known then bears it.
    """
    run = RunFolder(next(iter(sorted((out / name).glob("[!.]*"))), out))  # the only run that there is
    return tuple(_cell(run, backend, printed.splitlines(), ending) for backend in BACKENDS)


def _cell(run: RunFolder, backend: str, printed: Iterable[str], ending: str | None) -> Cell:
    try:
        report = read(ParityReport, run.parity_report(backend))
    except RecordError:  # there is none
        return _without_report(backend, printed, ending)
    if report.status == "pass":
        return Cell(backend=backend, status="pass")
    reason = report.reasons[0] if report.reasons else report.status
    return Cell(backend=backend, status="refused", levels=report.failed_levels or (report.status,), reason=reason)


def _without_report(backend: str, printed: Iterable[str], ending: str | None) -> Cell:
    said = {
        match["stage"]: match["text"]
        for text in printed
        if (match := re.match(rf"(?P<stage>build|parity)\s+{re.escape(backend)}: (?P<text>.*)", text))
    }
    if "parity" in said:
        return Cell(backend=backend, status="not judged", reason=said["parity"])
    if re.match(r"(failed|crashed|timeout|out-of-memory): ", said.get("build", "")):
        return Cell(backend=backend, status="no artifact", reason=said["build"])
    return Cell(backend=backend, status="not judged", reason=ending or "the run said nothing of it")
