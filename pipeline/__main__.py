"""``python -m pipeline``: the commands that there are."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from export.version import VERSION

COMMANDS = ("all", "calibrate", "locate", "tune", "load", "ship", "verify")


def main() -> int:
    """List the commands, each with the first line of its module's docstring."""
    if "--version" in sys.argv[1:]:
        print(f"torchstone {VERSION}")
        return 0
    print(f"torchstone {VERSION}\n\nCommands (each has --help):")
    for name in COMMANDS:
        text = ast.get_docstring(ast.parse(_file(name).read_text(encoding="utf-8"))) or ""
        print(f"  python -m pipeline.{name:<9} {text.partition(chr(10))[0]}")
    return 0


def _file(command: str) -> Path:
    here = Path(__file__).parent
    return next(path for path in (here / "commands" / f"{command}.py", here / f"{command}.py") if path.exists())


if __name__ == "__main__":
    raise SystemExit(main())
