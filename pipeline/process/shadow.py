"""A file of the user's that bears the name of one of our packages: told by name, before anything of it runs.

``python -m`` puts the current folder first on the path, and a recipe's folder is put there too. Once our packages are
imported, neither can hide them.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("export", "bench", "pipeline")


def claim_names(otherwise: str) -> None:
    """Import our packages, which hold nothing but a docstring each, so that their names stay ours in this process.

    ``otherwise`` says what helps besides giving the file another name.

    Raises:
        ImportError: a file would be imported in the place of one, or was; it is named.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).resolve() if spec is not None and spec.origin is not None else None
        if place != _ROOT / name / "__init__.py":
            raise ImportError(f"{place} hides Torchstone's package {name!r}: rename it, or {otherwise}")
        importlib.import_module(name)


def namesakes(folder: Path) -> list[Path]:
    """Files and folders in ``folder`` that bear the name of a package of ours, which is imported in their place."""
    places = (place for name in PACKAGES for place in (folder / f"{name}.py", folder / name))
    return [place for place in places if place.exists() and place.resolve().parent != _ROOT]
