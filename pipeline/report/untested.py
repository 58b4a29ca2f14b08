"""What a reader must not take for shown: what could not be looked at, and what there was nothing to look at with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bench.parity.reference import Reference
from export.registry import BASELINE

if TYPE_CHECKING:
    from bench.parity.report import ParityReport


def tested(reports: Mapping[str, ParityReport]) -> str:
    """``batch 1 to 4,096``: the sizes at which every artifact was tried; empty where none moves."""
    return ", ".join(
        f"{symbol} {sizes.min:,} to {sizes.max:,}"
        for report in [*reports.values()][:1]
        for symbol, sizes in report.tested_sizes.items()
    )


def untested(reports: Mapping[str, ParityReport], reference: Reference | None, gpus_count: int) -> tuple[str, ...]:
    """A sentence each."""
    return tuple(_untested(reports, reference, gpus_count))


def _untested(reports: Mapping[str, ParityReport], reference: Reference | None, gpus_count: int) -> Iterator[str]:
    if reports and reference is not None and not reference.real_rows_count:
        yield "real rows: the recipe has no data, so every input was drawn"
    if gpus_count == 0:
        yield "a GPU: none is visible here"
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
