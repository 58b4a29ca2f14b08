"""The table at the end of a run: a line per backend."""

from __future__ import annotations

from rich.table import Table

from bench.verdict import BASELINE, Row, Verdict
from pipeline import text


def verdict_table(verdict: Verdict) -> Table:
    """Mark, export time, size, parity (largest error in units of eager's own) and time per batch (times faster than eager)."""
    batches = text.batches(verdict.rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "backend", "export", "size", "parity"):
        table.add_column(heading, justify="left" if heading in {"", "backend", "parity"} else "right", no_wrap=True)
    for rows in batches:
        table.add_column(f"batch {rows}", justify="right", no_wrap=True)
    table.add_column("")
    for row in verdict.rows:
        table.add_row(
            _mark(row, verdict), row.name, text.seconds(row.build_s), text.size(row.size_bytes), text.parity(row),
            *(text.speed(text.speed_at(row, rows)) for rows in batches), _note(row, verdict),
            style="bold green" if row.name == verdict.winner else None,
        )  # fmt: skip
    return table


def _mark(row: Row, verdict: Verdict) -> str:
    if row.name == verdict.winner:
        return "★"
    if row.name == BASELINE and row.parity == "pass":
        return "·"
    return text.MARKS[row.shippable]


def _note(row: Row, verdict: Verdict) -> str:
    if row.name == verdict.winner:
        return "tie, simplest" if verdict.tied else "winner"
    if row.name == BASELINE and row.parity == "pass":
        return "baseline"
    if row.shippable:
        return "tied" if row.name in verdict.tied else ""
    return "; ".join(row.reasons)
