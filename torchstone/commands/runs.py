"""The runs that are kept: of which recipe, when, what came of them, and what they take on disk.

    torchstone runs [RECIPE ...] [options]
    torchstone runs tag RUN NAME

Any command takes a run as RECIPE@KEY; the beginning of the key is enough.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from export import hints
from pipeline.cli import GOOD
from pipeline.report import numbers

if TYPE_CHECKING:
    from rich.table import Table

    from torchstone.commands.store import StoredRun


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which runs."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ()
    """Only those of these recipes."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    json: bool = False
    """Print them as JSON, and nothing else."""


def main(arguments: Sequence[str], command: str = "torchstone runs") -> int:
    """List them, or name one."""
    if arguments[:1] == ["tag"]:
        from torchstone.commands import tag

        return tag.main(arguments[1:], f"{command} tag")
    options = tyro.cli(
        Options, args=list(arguments), prog=command, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    from pipeline.console import Console
    from torchstone.commands.store import stored_runs

    runs = stored_runs(options.out, options.recipes)
    if options.json:
        print(json.dumps([as_json(run) for run in runs]))
        return GOOD
    console = Console()
    if not runs:
        console.say(f"there is no run under {options.out}: {hints.command('run', 'seed')} makes one")
        return GOOD
    console.show(table(runs))
    total_bytes = sum(inode.size_bytes for inode in {inode for run in runs for inode in run.inodes})
    console.say(
        f"{len(runs)} run{'s' * (len(runs) != 1)}, {numbers.size(total_bytes)}: what they share is counted once"
    )
    return GOOD


def as_json(run: StoredRun) -> dict[str, object]:
    """A run as JSON values; sizes in bytes."""
    names = ("recipe", "key", "changed_at", "is_latest", "tags", "is_held", "good", "winner", "size_bytes")
    return {name: getattr(run, name) for name in names} | {"folder": str(run.folder)}


def table(runs: Sequence[StoredRun]) -> Table:
    """A row for each run."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("recipe", "key", "changed (UTC)", "verdict", "winner", "size", ""):
        shown.add_column(heading, justify="right" if heading == "size" else "left", no_wrap=True)
    for run in runs:
        verdict = {None: "none yet", True: "good", False: "not good"}[run.good]
        notes = [*(["latest"] if run.is_latest else []), *run.tags, *(["at work"] if run.is_held else [])]
        at = run.changed_at.partition("+")[0].replace("T", " ")
        size = numbers.size(run.size_bytes)
        shown.add_row(run.recipe, run.key, at, verdict, run.winner or "", size, ", ".join(notes))
    return shown
