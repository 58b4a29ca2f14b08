"""The command ``torchstone``: each of its subcommands is a module with a ``main(arguments, command)``.

Exit code 0: good; 1: not good; 2: usage or environment; 130: interrupted.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from export.version import VERSION
from torchstone.help import first_line, short_help

GOOD, USAGE = 0, 2
_VERIFY = "verify"
COMMANDS = {
    "check": "torchstone.commands.check",
    "run": "pipeline.all",
    "list": "torchstone.commands.listing",
    "init": "torchstone.commands.init",
    "locate": "pipeline.commands.locate",
    "calibrate": "pipeline.commands.calibrate",
    "tune": "pipeline.commands.tune",
    "load": "pipeline.commands.load",
    "ship": "pipeline.commands.ship",
    _VERIFY: "pipeline.verify",
    "serve": "torchstone.commands.serve",
    "runs": "torchstone.commands.runs",
    "clean": "torchstone.commands.clean",
    "report": "torchstone.commands.report",
    "compare": "torchstone.commands.compare",
}
"""In the order in which they are needed."""
_ROOT = Path(__file__).resolve().parents[1]
_HELP = ("-h", "--help")


def main() -> int:
    """Run the subcommand that the process's arguments name."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in _HELP:
        print(overview())
        return GOOD
    if name == "--version":
        print(f"torchstone {VERSION}")
        return GOOD
    if name.startswith("--tyro"):
        from torchstone.completion import complete

        complete(sys.argv[1:], COMMANDS)
        return GOOD
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(COMMANDS)}"
        print(f"error: there is no command {name!r}: {hint}", file=sys.stderr)
        return USAGE
    if COMMANDS[name].startswith("torchstone.") and arguments and all(flag in _HELP for flag in arguments):
        print(short_help(_file(name), f"torchstone {name}"))
        return GOOD
    return _start(name, arguments)


def overview() -> str:
    """The commands with a line each, the recipes, and where to look for the rest."""
    from pipeline.recipes import built_in

    return "\n".join(
        [
            f"torchstone {VERSION}",
            first_line(_ROOT / "torchstone" / "__init__.py"),
            "",
            "Commands, each with --help:",
            *(f"  torchstone {name:<10} {first_line(_file(name))}" for name in COMMANDS),
            "",
            "Recipes for `torchstone run`, besides your own (path/to/file.py, package.module:function):",
            *(f"  {name:<10} {text}" for name, text in built_in().items()),
            "",
            "`torchstone list` says which backends are available here, and how to get the others.",
            "Exit code 0: good; 1: not good; 2: usage or environment; 130: interrupted.",
        ]
    )


def _start(name: str, arguments: Sequence[str]) -> int:
    if name == _VERIFY:  # a person may stand in a bundle that nobody has checked: nothing in it is imported
        from pipeline.verifier.__main__ import start

        sys.argv[1:] = arguments
        return start()
    _append_current_folder()
    from pipeline.cli import end

    command = importlib.import_module(COMMANDS[name])
    return end(partial(command.main, command=f"torchstone {name}"), arguments)


def _append_current_folder() -> None:
    """Make modules of the current folder importable, after all others; Python puts only a script's own folder first."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def _file(name: str) -> Path:
    return _ROOT / f"{COMMANDS[name].replace('.', '/')}.py"
