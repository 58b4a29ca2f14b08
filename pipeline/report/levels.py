"""The table of parity levels: what was found at each level of each artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.parity.check import CheckStatus
from bench.parity.levels import LEVELS
from bench.parity.report import ParityReport
from pipeline.report.text import CHECK_MARKS


@dataclass(frozen=True, kw_only=True)
class LevelCell:
    """What one level found about one artifact; of several findings, the worst shows."""

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
class Levels:
    """The table, and the thresholds that were applied."""

    artifacts: tuple[str, ...]
    rows: tuple[LevelRow, ...]
    max_rms_ratio: str
    max_peak_ratio: str
    raised: str | None
    """Why the thresholds are higher than the recipe's; None if they are not."""
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
    worst = min((check.status for check in checks), key=list(CHECK_MARKS).index)
    findings = "\n".join(f"{check.subject}: {check.message}" for check in checks)
    return LevelCell(status=worst, mark=CHECK_MARKS[worst], findings=findings)
