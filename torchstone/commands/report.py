"""The page of a finished run: drawn anew from its records, and opened.

    torchstone report RUN [--open]

A run is a folder, a recipe's name (its latest run) or RECIPE@KEY.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from export.errors import UserError
from pipeline.cli import GOOD


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which run."""

    run: tyro.conf.Positional[str]
    """What to show."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    open: bool = False
    """Open the page in the browser."""


def main(arguments: Sequence[str], command: str = "torchstone report") -> int:
    """Draw, write, say where; open where that is asked."""
    options = tyro.cli(
        Options, args=list(arguments), prog=command, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    import webbrowser

    from export.files import write_atomically
    from export.record import read
    from pipeline.commands.named import find_run
    from pipeline.console import Console
    from pipeline.report.page import render
    from pipeline.report.results import read_results
    from pipeline.run import RecipeRecord

    files = find_run(options.run, options.out)
    if not files.verdict.exists():
        raise UserError(f"{options.run} has no verdict to show: the same command that began it goes on to one")
    page = render(files, read(RecipeRecord, files.recipe_record), read_results(files))
    write_atomically(files.page, page.encode())
    Console().say(f"report: {files.page}")
    if options.open and not webbrowser.open(files.page.as_uri()):
        raise UserError(f"no browser could be started here: open {files.page}")
    return GOOD
