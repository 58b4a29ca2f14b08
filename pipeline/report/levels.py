"""The table of parity levels: what was found at each level of each artifact, and every finding in full below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.parity.check import CheckStatus
from bench.parity.levels import LEVELS
from bench.parity.report import ParityReport

_MARKS: dict[CheckStatus, str] = {"fail": "✗", "inconclusive": "?", "unchecked": "-", "reported": "~", "pass": "✓"}
"""Worst first: a level with several findings shows the first of these that any of them has."""


@dataclass(frozen=True, kw_only=True)
class LevelCell:
    """What one level found about one artifact."""

    status: CheckStatus
    """The worst of its findings."""
    mark: str
    findings: str
    """One a line."""


@dataclass(frozen=True, kw_only=True)
class LevelRow:
    """One level: a cell per artifact, None where it does not apply."""

    name: str
    meaning: str
    cells: tuple[LevelCell | None, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding that is not a pass."""

    artifact: str
    level: str
    subject: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The table, the thresholds that were applied, and the findings that are written out below."""

    artifacts: tuple[str, ...]
    rows: tuple[LevelRow, ...]
    max_rms_ratio: str
    max_peak_ratio: str
    raised: str | None
    """Why the thresholds are higher than the recipe's; None if they are not."""
    findings: tuple[Finding, ...]
    worst: Mapping[str, str]
    """The element that is farthest off, by artifact; of those that fail by their values."""
    asked_again: Mapping[str, str]
    """By artifact: the cases that equivalents of the model were asked about, and what float32 leaves undetermined."""


def prepare_levels(reports: Mapping[str, ParityReport]) -> Levels | None:
    """A row per level, a column per artifact; None if no level found anything."""
    rows = tuple(
        LevelRow(
            name=level.name,
            meaning=level.meaning,
            cells=tuple(_level_cell(report, level.name) for report in reports.values()),
        )
        for level in LEVELS
    )
    rows = tuple(row for row in rows if any(row.cells))
    if not rows:
        return None
    thresholds = next(iter(reports.values())).thresholds
    return Levels(
        artifacts=tuple(reports),
        rows=rows,
        max_rms_ratio=f"{thresholds.max_rms_ratio:.3g}",
        max_peak_ratio=f"{thresholds.max_peak_ratio:.3g}",
        raised=thresholds.raised,
        findings=tuple(
            Finding(artifact=name, level=check.level, subject=check.subject, message=check.message)
            for name, report in reports.items()
            for check in report.checks
            if check.status != "pass"
        ),
        worst={name: report.worst.text for name, report in reports.items() if report.worst is not None},
        asked_again={name: _asked_again(report) for name, report in reports.items() if report.spreads},
    )


def _asked_again(report: ParityReport) -> str:
    cases = ", ".join(dict.fromkeys(spread.case for spread in report.spreads))
    count = sum(spread.undetermined_count for spread in report.spreads)
    left_out = f"; {count} rows or elements of them are undetermined in float32 and left out" if count else ""
    return (
        f"{cases} (equivalents differ by up to {max(spread.largest_unit for spread in report.spreads):.3g}){left_out}"
    )


def _level_cell(report: ParityReport, level: str) -> LevelCell | None:
    checks = [check for check in report.checks if check.level == level]
    if not checks:
        return None
    worst = min((check.status for check in checks), key=list(_MARKS).index)
    findings = "\n".join(f"{check.subject}: {check.message}" for check in checks)
    return LevelCell(status=worst, mark=_MARKS[worst], findings=findings)
