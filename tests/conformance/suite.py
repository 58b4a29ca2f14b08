"""Which architectures there are: every public function of the files in ``architectures/``, each a kind."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

KINDS = (
    "layers", "tables", "sequences", "sets", "attention", "language", "perception", "images", "vision", "medical",
    "graphs", "audio", "diffusion",
)  # fmt: skip
"""The files, by their names; each says in ``NEEDS`` which packages it imports besides ours."""
_FOLDER = Path(__file__).parent / "architectures"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One entry of the suite."""

    name: str
    """That of its function, and of its recipe."""
    kind: str
    about: str
    needs: tuple[str, ...]

    @property
    def place(self) -> str:
        """As ``pipeline.all`` takes it: ``FILE:function``."""
        return f"{_FOLDER / self.kind}.py:{self.name}"

    @property
    def missing(self) -> str | None:
        """The first package that is not installed here; None if all are."""
        return next((package for package in self.needs if importlib.util.find_spec(package) is None), None)

    def recipe(self) -> Recipe:
        """Import its file, call its function."""
        recipe: Recipe = getattr(importlib.import_module(f"tests.conformance.architectures.{self.kind}"), self.name)()
        return recipe


def architectures(kinds: tuple[str, ...] = KINDS) -> tuple[Architecture, ...]:
    """All of these kinds, in the order in which their files have them; nothing that they need is imported."""
    return tuple(entry for kind in kinds for entry in _in_file(kind))


def _in_file(kind: str) -> list[Architecture]:
    tree = ast.parse((_FOLDER / f"{kind}.py").read_text(encoding="utf-8"))
    assigned = {name: value for node in tree.body for name, value in _assigned(node)}
    needs: tuple[str, ...] = ast.literal_eval(assigned["NEEDS"])
    return [
        Architecture(name=node.name, kind=kind, about=ast.get_docstring(node) or "", needs=needs)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


def _assigned(node: ast.stmt) -> list[tuple[str, ast.expr]]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    return [(target.id, value) for target in targets if isinstance(target, ast.Name) and value is not None]
