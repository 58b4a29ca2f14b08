"""From the recipe to the verdict: which record follows from which, each with its digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.files import digest_file
from pipeline.report.backends import records

if TYPE_CHECKING:
    from bench.run_folder import RunFolder

_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Link:
    """A record that what comes after it was made from."""

    what: str
    file: str
    """Relative to the page."""
    sha256: str
    """The first digits of the file's digest."""


def lineage(files: RunFolder, winner: str | None) -> tuple[Link, ...]:
    """From the recipe to the verdict, through the winner; what the run did not come to is left out."""
    of_winner = records(files, winner) if winner is not None else {}
    places: dict[str, Path] = {
        "recipe": files.recipe_record,
        "checkpoint": files.checkpoint_record,
        "program": files.program_record,
        "reference": files.reference_record,
        **{f"{what} of {winner}": path for what, path in of_winner.items()},
        "verdict": files.verdict,
    }
    return tuple(
        Link(what=what, file=str(path.relative_to(files.path)), sha256=digest_file(path)[:_SHOWN])
        for what, path in places.items()
        if path.exists()
    )
