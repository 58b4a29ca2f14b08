"""The packages that stand beside this one have common names: a file of the user's that bears one is told by name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("export", "bench", "pipeline")


def claim() -> None:
    """Import them, which hold nothing but a docstring each, so that their names stay ours in this process.

    Raises:
        ImportError: a file would be imported in the place of one, or was; it is named.
    """
    for name in PACKAGES:
        if (place := _place(name)) != _ROOT / name / "__init__.py":
            raise ImportError(f"{place} hides Torchstone's package {name!r}: rename it, or start in another folder")
        importlib.import_module(name)


def _place(name: str) -> Path | None:
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        file = spec.origin if spec is not None else None
    return Path(file).resolve() if file is not None else None
