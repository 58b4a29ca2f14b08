"""How a command is typed on this machine: what a message tells a person to run must run as it is printed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

_DISTRIBUTION = "torchstone"
_ROOT = Path(__file__).resolve().parents[1]
_MODULES = {"run": "pipeline.all"} | {
    name: f"pipeline.{name}" for name in ("locate", "calibrate", "tune", "load", "ship", "verify")
}
"""By the subcommand of ``torchstone`` that does the same; the others are of ``torchstone`` alone."""


def command(name: str, *arguments: str | Path) -> str:
    """A subcommand with its arguments, called as this process was: by the script ``torchstone``, by ``python -m
    torchstone``, else by its module. Everything is quoted for a shell.
    """
    started = Path(sys.argv[0])
    if started.name == _DISTRIBUTION:
        words = [_as_typed(_DISTRIBUTION, started), name]
    else:
        through_package = name not in _MODULES or started.parts[-2:] == (_DISTRIBUTION, "__main__.py")
        module = [_DISTRIBUTION, name] if through_package else [_MODULES[name]]
        words = [_as_typed("python", Path(sys.executable)), "-m", *module]
    return shlex.join([*words, *map(str, arguments)])


def place(path: Path) -> Path:
    """A path as a person in the current folder types it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def install(extra: str) -> str:
    """The command that installs an extra: of this checkout, also an editable one, else of the distribution."""
    checkout = "." if Path.cwd() == _ROOT else str(_ROOT)
    place = checkout if (_ROOT / "pyproject.toml").is_file() else _DISTRIBUTION
    return f"pip install '{place}[{extra}]'"


def _as_typed(name: str, program: Path) -> str:
    """The name alone if a shell finds this very program by it, else the program's path."""
    path, known = os.path.abspath(program), shutil.which(name)
    return name if known is not None and os.path.abspath(known) == path else path
