"""Write a recipe to begin with: a file of your own that runs as it stands.

    torchstone init wine.py

Nothing is overwritten. `torchstone run wine.py` then trains, exports, proves, measures and bundles it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from export import hints
from export.errors import UserError
from pipeline.cli import GOOD

_TEMPLATE = Path(__file__).with_name("template.py")
_NAME = "my_recipe"
"""What the template calls its recipe."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where to write it."""

    file: tyro.conf.Positional[Path]
    """The recipe's file, which gives the recipe its name."""


def main(arguments: Sequence[str], command: str = "torchstone init") -> int:
    """Write the template under another name."""
    options = tyro.cli(Options, args=list(arguments), prog=command, description=__doc__)
    file = options.file
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UserError(f"a recipe is a Python module: its file must be called like wine.py, got {file}")
    known = importlib.util.find_spec(file.stem)
    if not file.exists() and known is not None and known.origin is not None:  # not a mere folder of that name
        raise UserError(f"{file} would hide the module {file.stem!r} that there is already: choose another name")
    text = _TEMPLATE.read_text(encoding="utf-8").replace(f'"{_NAME}"', f'"{file.stem}"')
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UserError(f"{file} is there already, and is left as it is: choose another name") from None
    except FileNotFoundError:
        raise UserError(f"there is no folder {file.parent}: make it first") from None
    run = hints.command("run", file)
    print(f"wrote {file}\nrun it: {run}\nevery setting: {run} --help")
    return GOOD
