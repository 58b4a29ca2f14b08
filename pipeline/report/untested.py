"""What a reader must not take for shown: what could not be looked at, and what there was nothing to look at with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bench.parity.reference import Reference
from export.registry import BASELINE

if TYPE_CHECKING:
    from bench.parity.report import ParityReport
    from bench.verdict.judge import Verdict


def tested(verdict: Verdict, reports: Mapping[str, ParityReport]) -> str:
    """``onnx was right with batch 1 to 4,096``: the sizes that the winner was tried at; empty where none moves."""
    report = reports.get(verdict.winner or "")
    sizes = report.tested_sizes if report else {}
    said = ", ".join(f"{symbol} {size.min:,} to {size.max:,}" for symbol, size in sizes.items())
    return f"{verdict.winner} was right with {said}" if said else ""


def untested(reports: Mapping[str, ParityReport], reference: Reference | None, device: str) -> tuple[str, ...]:
    """A sentence each; ``device`` is where everything ran."""
    return tuple(_untested(reports, reference, device))


def _untested(reports: Mapping[str, ParityReport], reference: Reference | None, device: str) -> Iterator[str]:
    if reports and reference is not None and not reference.real_rows_count:
        yield "real rows: the recipe has no data, so every input was drawn"
    if device == "cpu":
        yield "a GPU: everything ran on the CPU"
    by_finding: dict[str, list[str]] = {}
    for name, report in reports.items():
        for check in report.checks:
            if check.status == "unchecked" and name != BASELINE:
                by_finding.setdefault(f"{check.level}: {check.message}", []).append(name)
    for finding, names in by_finding.items():
        level, _, message = finding.partition(": ")
        yield f"{level} of {', '.join(dict.fromkeys(names))}: {message}"
    if reference is not None:
        yield from (f"{case}: {why}" for case, why in reference.left_out.items())
