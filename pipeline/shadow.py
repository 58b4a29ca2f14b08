"""A file of the user's that bears the name of one of our packages: told by name, before anything of it runs.

``python -m`` puts the current folder first on the path, and a recipe's folder is put there too. Once our packages are
imported, neither can hide them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("export", "bench", "pipeline")


def claim_names() -> None:
    """Import our packages, which hold nothing but a docstring each, so that their names stay ours in this process.

    Raises:
        SystemExit: code 2, a file would be imported in the place of one; it is named on standard error.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).resolve() if spec is not None and spec.origin is not None else None
        if place != _ROOT / name / "__init__.py":
            print(
                f"error: {place} hides Torchstone's package {name!r}: rename it, or start with "
                f"`{Path(sys.executable).name} -P -m pipeline...`, which leaves the current folder off the path",
                file=sys.stderr,
            )
            raise SystemExit(2)
        importlib.import_module(name)
