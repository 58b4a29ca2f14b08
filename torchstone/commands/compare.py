"""Two runs of a recipe against each other: what became faster, slower, wrong, larger; a gate for pull requests.

    torchstone compare BEFORE AFTER [options]

A run is a folder, a recipe's name (its latest run), RECIPE@KEY or RECIPE@NAME. Exit code 1: something became worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from export.errors import UserError
from pipeline.cli import GOOD, NOT_GOOD
from pipeline.comparison import LEAST

if TYPE_CHECKING:
    from pipeline.comparison.changes import Comparison


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which runs, and where the result goes."""

    before: tyro.conf.Positional[str]
    """What there was."""
    after: tyro.conf.Positional[str]
    """What there is now."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    least: float = LEAST
    """A smaller change counts for nothing: 0.1 is a tenth."""
    strict: bool = False
    """What cannot be told, or compared, ends with 1 too."""
    json: bool = False
    """Print it as JSON, and nothing else."""
    markdown: bool = False
    """Print it as Markdown, for a comment on a pull request."""
    junit: Path | None = None
    """Write it as JUnit's XML to this file, too."""


def main(arguments: Sequence[str], command: str = "torchstone compare") -> int:
    """Compare, show, and say by the exit code whether anything became worse."""
    options = tyro.cli(
        Options, args=list(arguments), prog=command, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    if not options.least > 0:
        raise UserError(f"--least is a share above 0, got {options.least:g}: 0.1 is a tenth")
    if options.json and options.markdown:
        raise UserError("--json and --markdown are two forms of one output: ask for one")
    from export.files import write_atomically
    from export.record import encode
    from pipeline.comparison.changes import compare
    from pipeline.comparison.side import Side
    from pipeline.comparison.text import as_junit, as_markdown

    before, after = (Side.of(text, options.out) for text in (options.before, options.after))
    comparison = compare(before, after, options.least)
    if options.junit is not None:
        write_atomically(options.junit, as_junit(comparison))
    if options.json:
        print(encode(comparison).decode())
    elif options.markdown:
        print(as_markdown(comparison), end="")
    else:
        _show(comparison)
    return NOT_GOOD if comparison.regressed(strict=options.strict) else GOOD


def _show(comparison: Comparison) -> None:
    """What changed; how many things did not."""
    from pipeline.comparison.text import MARKS, cells, headline, in_order
    from pipeline.console import Console
    from pipeline.report.table import Column, table_lines

    console = Console()
    changed = [change for change in in_order(comparison) if change.outcome != "same"]
    if changed:
        texts = [(MARKS[change.outcome], *cells(change)) for change in changed]
        heads = ("", "kind", "what", "before", "after", "")
        columns = [
            Column(heading=head, cells=tuple(column), worth=100, right=head in {"before", "after"})
            for head, column in zip(heads, zip(*texts, strict=True), strict=True)
        ]
        console.lines(table_lines(columns, console.width, [""] * len(changed)))
    for why in comparison.refused:
        console.prose(f"not compared: {why}")
    for remark in comparison.remarks:
        console.prose(remark)
    console.prose(headline(comparison))
