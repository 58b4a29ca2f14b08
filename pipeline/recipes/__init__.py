"""Built-in recipes, one file each; the first line of a file's docstring is what ``--help`` shows of it."""

from __future__ import annotations

import ast
from pathlib import Path


def built_in() -> dict[str, str]:
    """Names of the built-in recipes, and the first line of what each says of itself; nothing is imported."""
    summaries = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem != "__init__":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            summaries[path.stem] = text.partition("\n")[0]
    return summaries
