"""The table at the end of a run: a line per backend, in no more columns than fit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from bench.verdict.judge import Verdict
from pipeline.report import numbers, text

_GAP = "  "
_KEPT, _PARITY, _LARGEST_BATCH, _OTHER_BATCHES, _NOTE = 100, 98, 97, 50, 4
"""What columns are worth; those of ``_KEPT`` are never left out."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A heading, and a cell for every row."""

    heading: str
    cells: tuple[str, ...]
    worth: int
    """The lowest are left out first."""
    right: bool = False

    @property
    def width(self) -> int:
        """In characters of a terminal."""
        return max(map(cell_len, (self.heading, *self.cells)))

    def padded(self, cell: str) -> str:
        """The cell, as wide as the column."""
        spaces = " " * (self.width - cell_len(cell))
        return spaces + cell if self.right else cell + spaces


def table_lines(columns: Sequence[Column], width: int, styles: Sequence[str]) -> list[Text]:
    """Heading and rows (in a style each) in at most ``width`` characters, and what had to be left out for that.

    No cell is shortened: a table of columns that must stay may be wider.
    """
    filled = [column for column in columns if {*column.cells} - {"", "-"}]  # what nobody measured is not missed
    chosen = _fitting(filled, width)
    heads = Text(_line(chosen, [column.heading for column in chosen]), style="bold")
    rows = [Text(_line(chosen, [column.cells[i] for column in chosen]), style=style) for i, style in enumerate(styles)]
    left_out = [column.heading for column in filled if column.heading and column not in chosen]
    remark = f"left out at this width, the report has them: {', '.join(left_out)}" if left_out else ""
    return [heads, *rows, *map(Text, textwrap.wrap(remark, width, break_long_words=False))]


def verdict_lines(verdict: Verdict, width: int) -> list[Text]:
    """Mark, export time, size, cold start, peak memory, parity (largest error in eager's own), time per batch (times
    faster than eager).
    """
    rows, batches = verdict.rows, text.batches(verdict.rows)
    columns = [
        Column(heading="", cells=tuple(text.mark(row, verdict) for row in rows), worth=_KEPT),
        Column(heading="backend", cells=tuple(row.name for row in rows), worth=_KEPT),
        Column(heading="export", cells=tuple(numbers.seconds(row.build_s) for row in rows), worth=0, right=True),
        Column(heading="size", cells=tuple(numbers.size(row.size_bytes) for row in rows), worth=1, right=True),
        Column(heading="start", cells=tuple(map(text.cold, rows)), worth=3, right=True),
        Column(heading="memory", cells=tuple(map(text.memory, rows)), worth=2, right=True),
        Column(heading="parity", cells=tuple(map(text.parity, rows)), worth=_PARITY),
        *(
            Column(
                heading=f"batch {size}",
                cells=tuple(text.speed(text.speed_at(row, size)) for row in rows),
                worth=_worth_of_batch(index, len(batches)),
                right=True,
            )
            for index, size in enumerate(batches)
        ),
        Column(heading="", cells=tuple(text.brief(row, verdict) for row in rows), worth=_NOTE),
    ]
    return table_lines(columns, width, ["bold green" if row.name == verdict.winner else "" for row in rows])


def _worth_of_batch(index: int, count: int) -> int:
    """The smallest batch size stays longest, then the largest, then those in between."""
    if index == 0:
        return _KEPT - 1
    return _LARGEST_BATCH if index == count - 1 else _OTHER_BATCHES - index


def _fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns without those of least worth that are too many."""
    chosen = list(columns)
    while _width(chosen) > width and (spare := [column for column in chosen if column.worth < _KEPT]):
        chosen.remove(min(spare, key=lambda column: column.worth))
    return chosen


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1)


def _line(columns: Sequence[Column], cells: Sequence[str]) -> str:
    return _GAP.join(column.padded(cell) for column, cell in zip(columns, cells, strict=True)).rstrip()
