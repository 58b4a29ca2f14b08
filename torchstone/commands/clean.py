"""Remove the runs that nothing needs any more: all but the latest of each recipe.

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

from export.errors import UserError
from pipeline.cli import GOOD

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
    from torchstone.commands.runs import as_json, size, table
    from torchstone.commands.store import freed_bytes, stored_runs

    runs = stored_runs(options.out, options.recipes)
    stale = [run for recipe in dict.fromkeys(run.recipe for run in runs) for run in _stale(recipe, runs)]
    needed = {run.given for run in runs if run not in stale}
    going = {run: tuple(folder for folder in run.folders if folder not in needed) for run in stale}
    console = Console(json=options.json)
    if stale:
        console.show(table(stale))
        freed = size(freed_bytes([*dict.fromkeys(folder for folders in going.values() for folder in folders)]))
        console.say(f"{'would remove' if options.dry_run else 'removing'} {len(stale)} of {len(runs)} runs: {freed}")
    else:
        console.say(f"nothing to remove: of {len(runs)} runs, each is the latest, the newest, or held by a process")
    if not options.dry_run:
        aside = options.out.resolve() / _REMOVED
        if aside.is_symlink():
            raise UserError(f"{aside} is a symbolic link, and nothing is removed through one: take it away")
        stale = [run for run in stale if _remove(run, going[run], aside, console)]
        shutil.rmtree(aside, ignore_errors=True)
    if options.json:
        print(json.dumps([as_json(run) for run in stale]))
    return GOOD


def _stale(recipe: str, runs: Sequence[StoredRun]) -> Iterator[StoredRun]:
    """What may go of a recipe's runs, which come from the oldest to the newest."""
    same = [run for run in runs if run.recipe == recipe]
    if any(run.is_held for run in same):  # which may be taking over files of any other
        return
    yield from (run for run in same[:-1] if not run.is_latest)


def _remove(run: StoredRun, folders: Sequence[Path], aside: Path, console: Console) -> bool:
    """Move a run's folders aside while nobody else can take it up, then remove them; False if somebody has it."""
    lock = filelock.FileLock(run.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError) as error:
        console.say(f"left {run.recipe}@{run.key}: {error}")
        return False
    try:
        aside.mkdir(exist_ok=True)
        for folder in folders:
            if folder.exists():  # two runs may share the module that was given
                os.rename(folder, aside / f"{run.recipe}-{folder.parent.name}-{folder.name}")
    finally:
        lock.release()
    shutil.rmtree(aside)
    return True
