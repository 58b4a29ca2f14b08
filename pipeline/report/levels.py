"""What parity found, level by level: one table for all artifacts, and every finding in full below it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from bench.parity.check import LEVELS, Check
from bench.parity.report import ParityReport

_MARKS = {"fail": "✗", "inconclusive": "?", "unchecked": "-", "reported": "~", "pass": "✓"}
"""Worst first: a level with several findings shows the first of these that any of them has."""
_LEGEND = (
    "✓ right, ✗ wrong, ? cannot be told, - could not be looked at, ~ differs in a way that no artifact fails for; "
    "hover for the figures."
)


def levels_table(reports: Mapping[str, ParityReport]) -> str:
    """A row per level, a column per artifact, and the thresholds that it was judged by."""
    found = [level for level in LEVELS if any(check.level == level for one in reports.values() for check in one.checks)]
    if not found:
        return ""
    head = "".join(f"<th>{_safe(name)}</th>" for name in reports)
    body = "".join(
        f'<tr><td title="{_safe(LEVELS[level])}">{_safe(level)}</td>'
        + "".join(_cell([check for check in report.checks if check.level == level]) for report in reports.values())
        + f"<td>{_safe(LEVELS[level])}</td></tr>"
        for level in found
    )
    table = f'<table class="levels"><tr><th></th>{head}<th></th></tr>{body}</table>'
    return f'{table}<p class="dim">{_safe(_LEGEND)} {_thresholds(reports)}</p>{_details(reports)}'


def _cell(checks: Sequence[Check]) -> str:
    if not checks:
        return "<td></td>"
    worst = min((check.status for check in checks), key=list(_MARKS).index)
    message = "\n".join(f"{check.subject}: {check.message}" for check in checks)
    return f'<td class="{worst}" title="{_safe(message)}">{_MARKS[worst]}</td>'


def _thresholds(reports: Mapping[str, ParityReport]) -> str:
    limits = next(iter(reports.values())).thresholds
    summary = f"Thresholds: RMS {limits.max_rms_ratio:.3g}, largest {limits.max_peak_ratio:.3g} times eager's."
    return _safe(f"{summary} Raised: {limits.raised}." if limits.raised else summary)


def _details(reports: Mapping[str, ParityReport]) -> str:
    """Everything that is not simply right, in words: a page that is printed has no hovering."""
    items = "".join(
        f"<li><strong>{_safe(name)}</strong>, {_safe(check.level)} of {_safe(check.subject)}: {_safe(check.message)}</li>"
        for name, report in reports.items()
        for check in report.checks
        if check.status != "pass"
    )
    return f"<details><summary>Everything that is not simply right</summary><ul>{items}</ul></details>" if items else ""


def _safe(value: str) -> str:
    return html.escape(value, quote=True)
