"""Train a recipe, on as many processes as torchrun starts; ``pipeline.all`` then goes on from what was trained.

    python -m pipeline.train [RECIPE] [options]
    torchrun --nproc-per-node 2 -m pipeline.train [RECIPE] [options]

The first process alone works in the run's folder; the others hear from it what there is to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import GOOD, parse

if TYPE_CHECKING:
    from export.device import Device
    from pipeline.cli import Options
    from pipeline.find import Found
    from pipeline.training.distributed import World


def main(arguments: Sequence[str], command: str = "python -m pipeline.train") -> int:
    """Train, or say that it is done already."""
    located, options = parse(arguments, command)
    from export.device import choose, device
    from pipeline.training.distributed import together

    where = choose(options.device)
    own = device(f"{where.kind}:{os.environ.get('LOCAL_RANK', '0')}") if where.asynchronous else where
    with together(own) as world:
        if world.writes:
            _lead(located, options, where, world)
        elif (job := world.first(None)) is not None:
            from pipeline.training.train import follow

            folder, key = job
            follow(located.recipe, own, Path(folder), key, world)
    return GOOD


def _lead(located: Found, options: Options, where: Device, world: World) -> None:
    from pipeline.console import Console
    from pipeline.run import open_run
    from pipeline.stages.train import train

    console = Console(quiet=options.quiet, json=options.json)
    asked = False

    def begin(folder: Path, key: str) -> None:
        nonlocal asked
        asked = True
        world.first((str(folder), key))

    try:
        with open_run(located, where.name, options.out, console) as run:
            processes = f", {world.size} processes" if world.size > 1 else ""
            console.say(f"recipe {located.recipe.name} on {where.name}{processes}, in {run.folder}")
            train(run, world, begin)
    finally:
        if not asked:  # the others wait to hear that there is nothing to do
            world.first(None)
