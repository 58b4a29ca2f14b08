"""Remove the runs that nothing needs any more: all but the latest of each recipe, and those that have a name.

    torchstone clean [RECIPE ...] [--dry-run] [options]

The newest run stays too, where it is not the latest that was finished, and so do all runs of a recipe while a process
works in any of them. Only what `torchstone runs` lists is removed; symbolic links are not followed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import tyro

from bench.run_folder import RunFolder
from export.errors import UserError
from pipeline.cli import GOOD
from pipeline.report import numbers

if TYPE_CHECKING:
    from pipeline.console import Console
    from torchstone.commands.store import StoredRun

_REMOVED = ".torchstone-removed"
"""A folder under --out: what is removed is first moved there, so that nobody finds half of it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to remove."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ()
    """Only runs of these recipes."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    dry_run: bool = False
    """Only say what would be removed."""
    json: bool = False
    """Print what is removed as JSON, and nothing else."""


def main(arguments: Sequence[str], command: str = "torchstone clean") -> int:
    """List what goes, then remove it."""
    options = tyro.cli(
        Options, args=list(arguments), prog=command, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    from pipeline.console import Console
    from torchstone.commands.runs import as_json, table
    from torchstone.commands.store import freed_bytes, stored_runs

    runs = stored_runs(options.out, options.recipes)
    stale = [run for recipe in dict.fromkeys(run.recipe for run in runs) for run in _stale(recipe, runs)]
    console = Console(json=options.json)
    if stale:
        console.show(table(stale))
        freed = numbers.size(freed_bytes([*(run.folder for run in stale), *_unneeded(stale, runs)]))
        console.say(f"{'would remove' if options.dry_run else 'removing'} {len(stale)} of {len(runs)} runs: {freed}")
    else:
        console.say(
            f"nothing to remove: of {len(runs)} runs, each is the latest, the newest, named, or held by a process"
        )
    if not options.dry_run:
        stale = _remove(stale, runs, options.out.resolve() / _REMOVED, console)
    if options.json:
        print(json.dumps([as_json(run) for run in stale]))
    return GOOD


def _stale(recipe: str, runs: Sequence[StoredRun]) -> Iterator[StoredRun]:
    """What may go of a recipe's runs, which come from the oldest to the newest."""
    same = [run for run in runs if run.recipe == recipe]
    if any(run.is_held for run in same):  # which may be taking over files of any other
        return
    yield from (run for run in same[:-1] if not run.is_latest and not run.tags)


def _remove(stale: Sequence[StoredRun], runs: Sequence[StoredRun], aside: Path, console: Console) -> list[StoredRun]:
    """Remove what nobody has taken up meanwhile; those runs.

    Raises:
        UserError: what is to be removed would be moved through a symbolic link.
    """
    if aside.is_symlink():
        raise UserError(f"{aside} is a symbolic link, and nothing is removed through one: take it away")
    shutil.rmtree(aside, ignore_errors=True)  # what an interrupted removal left
    aside.mkdir()
    removed = [run for run in stale if _set_aside(run, aside, console)]
    for folder in _unneeded(removed, runs):
        os.rename(folder, aside / f"given-{folder.name}")
    shutil.rmtree(aside)
    return removed


def _unneeded(removed: Sequence[StoredRun], runs: Sequence[StoredRun]) -> list[Path]:
    """The folders of modules that were given instead of a recipe, and that no run needs which stays."""
    needed = {run.given for run in runs if run not in removed}
    return [given for given in dict.fromkeys(run.given for run in removed) if given is not None and given not in needed]


def _set_aside(run: StoredRun, aside: Path, console: Console) -> bool:
    """Move a run's folder aside while nobody else can take it up; False if somebody has."""
    lock = filelock.FileLock(RunFolder(run.folder).lock)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError) as error:
        console.say(f"left {run.recipe}@{run.key}: {error}")
        return False
    try:
        os.rename(run.folder, aside / f"{run.recipe}-{run.key}")
    finally:
        lock.release()
    return True
