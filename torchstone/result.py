"""What became of a model: a row for every backend, the winner, and the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.text import Text

from bench.run_folder import RunFolder
from bench.verdict.judge import Row as VerdictRow
from bench.verdict.judge import Verdict
from export import hints
from export.errors import UserError
from pipeline.cli import GOOD
from pipeline.console import WIDE, Console
from pipeline.report.ending import Problem, closing_lines, problem_lines
from pipeline.report.table import Column, table_lines, verdict_lines
from torchstone.runner import load

if TYPE_CHECKING:
    from bench.parity.report import ParityStatus
    from export.backend import Runner
    from export.signature import Signature
    from pipeline.all import Ending
    from pipeline.run import Run


@dataclass(frozen=True, kw_only=True)
class Row:
    """One backend: what was built, whether it is right, how fast it is."""

    name: str
    status: ParityStatus | Literal["failed"]
    """``pass``, ``fail``, ``inconclusive`` or ``no-reference``; ``failed`` if it was not built or not judged."""
    reasons: tuple[str, ...]
    """Why it may not ship; empty if it may."""
    largest_error: float | None
    """As a multiple of eager float32's own; None if nothing could be compared."""
    path: Path | None
    """The file that is loaded, or the artifact's folder where that holds several; None if it was not built."""
    folder: Path | None
    """The artifact's folder, which ``torchstone.load`` takes."""
    figures: VerdictRow | None
    """Times, size, memory and cold start, as the verdict has them; None if nothing was measured."""

    def load(self, device: str = "cpu") -> Runner:
        """The artifact, ready to be called.

        Raises:
            UserError: there is none.
        """
        if self.folder is None:
            raise UserError(f"{self.name} was not built: {'; '.join(self.reasons)}")
        return load(self.folder, device)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run. ``print(result)`` shows its table; ``result["onnx"]`` is a row."""

    folder: Path
    """The run's own, which every command takes: ``torchstone locate FOLDER BACKEND``."""
    rows: tuple[Row, ...]
    signature: Signature
    """Inputs and outputs, as they were found."""
    assumptions: tuple[str, ...]
    """What the examples left open, in sentences."""
    verdict: Verdict | None
    """Its record; None where nothing was measured."""
    good: bool
    """Whether every required backend is right, and every limit holds."""

    @property
    def winner(self) -> str | None:
        """The backend that ships, by name; None if none may, or nothing was measured."""
        return self.verdict.winner if self.verdict else None

    @property
    def report(self) -> Path | None:
        """The page, for a browser; None where nothing was measured."""
        page = RunFolder(self.folder).page
        return page if self.verdict and page.exists() else None

    def __getitem__(self, name: str) -> Row:
        """The row of a backend.

        Raises:
            KeyError: it was not asked for.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is none of {', '.join(row.name for row in self.rows)}")

    def __iter__(self) -> Iterator[Row]:
        """Rows, in the order of the table."""
        return iter(self.rows)

    def save(self, folder: str | Path) -> Path:
        """Ship: a new version in a serving folder, checked there, made current by one rename; the version's folder.

        Raises:
            UserError: no verdict, or none that is good.
        """
        from pipeline.commands import ship

        if self.verdict is None:
            raise UserError("nothing was measured, so nothing was chosen: torchstone.check chooses what ships")
        if not self.verdict.good:
            raise UserError(f"nothing is shipped: {'; '.join(self.verdict.reasons)}")
        if ship.main([str(self.folder), "--to", str(folder), "--quiet"]) != GOOD:
            again = hints.command("ship", self.folder, "--to", folder)
            raise UserError(f"nothing is shipped, the bundle's own check refused it: {again} says why")
        return (Path(folder) / "current").resolve()

    def __str__(self) -> str:
        """The table, what was assumed, and why the winner won."""
        files = RunFolder(self.folder)
        if self.verdict:
            table, below = verdict_lines(self.verdict, Console().width), closing_lines(files, self.verdict)
        else:
            table, below = self._table(), problem_lines(files, self._problems())
        assumed = (f"assumed: {sentence}" for sentence in self.assumptions)
        return "\n".join([*(line.plain for line in table), *(line.text for line in below), *assumed])

    def _table(self) -> list[Text]:
        """Without times: what was built, and whether it is right."""
        columns = (
            Column(heading="backend", cells=tuple(row.name for row in self.rows), worth=1),
            Column(heading="parity", cells=tuple(row.status for row in self.rows), worth=1),
        )
        return table_lines(columns, WIDE, [""] * len(self.rows))

    def _problems(self) -> list[Problem]:
        return [
            Problem(name=row.name, reasons=row.reasons, parity=None if row.status == "failed" else row.status)
            for row in self.rows
            if row.reasons
        ]


def result_of(run: Run, ending: Ending, assumptions: tuple[str, ...] = ()) -> Result:
    """What a run came to."""
    verdict_rows = {row.name: row for row in ending.verdict.rows} if ending.verdict else {}
    rows = []
    for key, entry in run.found.recipe.entries.items():
        name = entry.row(run.device)
        figures, report = verdict_rows.get(name), ending.reports.get(key)
        failure, artifact = ending.failures.get(key), ending.artifacts.get(key)
        reasons = [f"{failure.step}: {failure.cause}"] if failure else []
        folder = run.files.artifact(artifact.name) if artifact else None
        file = entry.backend.file
        rows.append(
            Row(
                name=name,
                status=report.status if report else "failed",
                largest_error=report.worst_ratio if report else None,
                reasons=figures.reasons if figures else (*reasons, *(report.reasons if report else ())),
                path=folder / file if folder and file else folder,
                folder=folder,
                figures=figures,
            )
        )
    return Result(
        folder=run.folder,
        rows=tuple(rows),
        signature=ending.program.signature if ending.program else run.found.recipe.signature,
        assumptions=assumptions,
        verdict=ending.verdict,
        good=ending.is_good(run, None if ending.verdict else "parity"),
    )
