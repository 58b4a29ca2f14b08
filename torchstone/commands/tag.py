"""Give a run a name, by which every command takes it: RECIPE@NAME.

    torchstone runs tag RUN NAME

A name moves from one run to another of the same recipe; `torchstone clean` keeps a run that has one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from export.errors import UserError
from pipeline.cli import GOOD
from pipeline.run import LATEST

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_KEY = re.compile(r"[0-9a-f]+")
_TAKEN = (LATEST, "given")
"""What already stands beside the runs of a recipe."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which run, and its name."""

    run: tyro.conf.Positional[str]
    """A folder, a recipe's name (its latest run) or RECIPE@KEY."""
    name: tyro.conf.Positional[str]
    """Letters, digits, `.`, `-` and `_`; not what could be the beginning of a key."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""


def main(arguments: Sequence[str], command: str = "torchstone runs tag") -> int:
    """Name it."""
    options = tyro.cli(
        Options, args=list(arguments), prog=command, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    if not _NAME.fullmatch(options.name) or options.name in _TAKEN or _KEY.fullmatch(options.name):
        raise UserError(
            f"{options.name!r} cannot name a run: letters, digits, '.', '-' and '_', at most 64, "
            f"not {' nor '.join(_TAKEN)}, nor what could be the beginning of a key (0-9 and a-f alone)"
        )
    from pipeline.commands.named import find_run
    from pipeline.console import Console
    from pipeline.run import set_link

    files = find_run(options.run, options.out)
    set_link(files.path, options.name)
    Console().say(f"{files.recipe_name}@{options.name} is {files.path}")
    return GOOD
