"""What stands below the table: rows that may not ship, each with its reason and the next command, in two lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from export import hints
from export.artifact import PROGRAM_RECORD, ProgramRecord
from export.errors import RecordError
from export.record import read
from pipeline.report import text

if TYPE_CHECKING:
    from bench.parity.report import ParityReport, ParityStatus
    from bench.run_folder import RunFolder
    from bench.verdict.judge import Failure, Verdict
    from pipeline.console import Console


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of text."""

    text: str
    verbatim: bool = False
    """Whether it has a command or a path to copy, and so must stay a line."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A row that may not ship."""

    name: str
    reasons: tuple[str, ...]
    parity: ParityStatus | None = None
    log: str | None = None
    """Relative to the run."""

    @property
    def sentence(self) -> str:
        """The first reason, and how many there are besides."""
        more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
        return f"{text.BAD} {self.name}: {self.reasons[0]}{more}"

    def next_step(self, files: RunFolder) -> str | None:
        """Where to look: the command that locates a wrong value, or the log of what ended badly."""
        if self.parity in {"fail", "inconclusive"} and _is_traced(files):
            return f"  where: {hints.command('locate', files.path, self.name)}"
        return f"  log: {files.path / self.log}" if self.log else None


def judged_problems(verdict: Verdict) -> list[Problem]:
    """The rows of a verdict that may not ship; the baseline, which never does, only if it is wrong."""
    return [
        Problem(name=row.name, reasons=row.reasons, parity=row.parity, log=row.log)
        for row in verdict.rows
        if row.reasons and not text.is_baseline(row)
    ]


def unjudged_problems(
    names: Mapping[str, str], failures: Mapping[str, Failure], reports: Mapping[str, ParityReport]
) -> list[Problem]:
    """The same of a run that stopped before its verdict; ``names`` has the rows' by what a recipe calls them."""
    wrong = [
        Problem(name=names[key], reasons=report.reasons, parity=report.status)
        for key, report in reports.items()
        if report.reasons
    ]
    return wrong + [
        Problem(name=names[key], reasons=(f"{failure.step}: {failure.cause}",), log=failure.log)
        for key, failure in failures.items()
    ]


def problem_lines(files: RunFolder, problems: Iterable[Problem]) -> list[Line]:
    """Two lines for each, or one where there is nothing to look at."""
    lines = []
    for problem in problems:
        lines.append(Line(text=problem.sentence))
        if (step := problem.next_step(files)) is not None:
            lines.append(Line(text=step, verbatim=True))
    return lines


def closing_lines(files: RunFolder, verdict: Verdict) -> list[Line]:
    """What a table leaves to say: rows that may not ship, why the winner won, and why the run is not good."""
    missing = {row.name: row.missing for row in verdict.rows if row.missing is not None}
    reasons = [reason for reason in verdict.reasons if reason not in missing.values()]  # those stand with their rows
    required = [f"the run is not good, these are required: {', '.join(missing)}"] if missing else []
    sentences = [Line(text=sentence) for sentence in (*reasons, *required)]
    return [*problem_lines(files, judged_problems(verdict)), *sentences]


def show(console: Console, lines: Iterable[Line]) -> None:
    """Sentences are broken where a terminal ends, commands and paths are not."""
    for line in lines:
        (console.say if line.verbatim else console.prose)(line.text)


def _is_traced(files: RunFolder) -> bool:
    """Whether there is a program to locate an error by."""
    try:
        return read(ProgramRecord, files.program / PROGRAM_RECORD).failure is None
    except RecordError:
        return False
