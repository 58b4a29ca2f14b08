"""The table at the end of a run: a line per backend."""

from __future__ import annotations

from rich.table import Table

from bench.verdict.judge import Verdict
from pipeline.report import text

_NOTE_LENGTH = 90


def verdict_table(verdict: Verdict) -> Table:
    """Mark, export time, size, cold start, peak memory, parity (largest error in eager's own), time per batch (times
    faster than eager).
    """
    batches = text.batches(verdict.rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "backend", "export", "size", "start", "memory", "parity"):
        table.add_column(heading, justify="left" if heading in {"", "backend", "parity"} else "right", no_wrap=True)
    for rows in batches:
        table.add_column(f"batch {rows}", justify="right", no_wrap=True)
    table.add_column("")
    for row in verdict.rows:
        table.add_row(
            text.mark(row, verdict),
            row.name,
            text.seconds(row.build_s),
            text.size(row.size_bytes),
            text.cold(row),
            text.memory(row),
            text.parity(row),
            *(text.speed(text.speed_at(row, rows)) for rows in batches),
            _short(text.note(row, verdict)),
            style="bold green" if row.name == verdict.winner else None,
        )
    return table


def _short(note: str) -> str:
    """The beginning of a note; the whole of it stands below the table and in the report."""
    return note if len(note) <= _NOTE_LENGTH else f"{note[: _NOTE_LENGTH - 1]}…"
