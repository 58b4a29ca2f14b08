"""What became worse since docs/measured/conformance.md was written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from tests.conformance.outcome import BACKENDS, Cell, Outcome, Status

_STATUS = re.compile("|".join(get_args(Status)))


def worse(run: Sequence[Outcome], page: str) -> list[str]:
    """A sentence for each backend of each architecture that the page has better; what it does not have is new."""
    before = committed(page)
    return [
        f"{outcome.name}: {cell.backend} was {known.status}, is {cell.status}"
        + (f" ({', '.join(cell.levels)})" if cell.levels else "")
        + (f": {cell.reason}" if cell.reason else "")
        for outcome in run
        for cell in outcome.cells
        if (known := before.get((outcome.name, cell.backend))) is not None and cell.rank < known.rank
    ]


def committed(page: str) -> dict[tuple[str, str], Cell]:
    """By architecture and backend, what the page's first table says."""
    return {
        (name.strip(), backend): Cell(backend=backend, status=_status(cell))
        for name, _, *cells, _ in (line.strip("|").split("|") for line in _rows(page))
        for backend, cell in zip(BACKENDS, cells, strict=True)
    }


def _rows(page: str) -> list[str]:
    """The lines below the heading of the table of architectures."""
    _, _, after = page.partition("\n| architecture |")
    table, _, _ = after.partition("\n\n")
    return table.splitlines()[2:]


def _status(cell: str) -> Status:
    match = _STATUS.match(cell.strip())
    if match is None:
        raise ValueError(f"the page has a cell that is no status: {cell.strip()!r}")
    status: Status = match.group()  # type: ignore[assignment]  # the pattern is made of them
    return status
