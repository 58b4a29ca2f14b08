"""A command's help, read off its source: that needs none of the imports that the command itself does."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

_WIDTH, _INDENT = 110, 24


def first_line(file: Path) -> str:
    """The first line of a module's docstring, which is the first of its file."""
    with file.open(encoding="utf-8") as text:
        return text.readline().strip().strip('"')


def short_help(file: Path, command: str) -> str:
    """The docstring of a command's module, and the fields of its class ``Options`` as flags.

    A field that is a dataclass itself is a group of flags, of which only the name is shown.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    options = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Options")
    lines = [f"usage: {command} ...", "", ast.get_docstring(tree) or "", "", "Options:"]
    for field, text in _fields(options):
        title = f"  {_title(field)}"
        body = textwrap.wrap(text, _WIDTH - _INDENT)
        if len(title) < _INDENT - 1 and body:
            lines.append(f"{title:<{_INDENT}}{body.pop(0)}")
        else:
            lines.append(title)
        lines += [" " * _INDENT + line for line in body]
    return "\n".join(lines)


def _fields(options: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Each field with the text below it."""
    for field, text in zip(options.body, [*options.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            assert is_text, f"the field {ast.unparse(field.target)} has no text"
            yield field, " ".join(str(ast.literal_eval(text.value)).split())  # type: ignore[union-attr]


def _title(field: ast.AnnAssign) -> str:
    name = ast.unparse(field.target).replace("_", "-")
    if "Positional" in ast.unparse(field.annotation):
        return name.upper()
    is_group = isinstance(field.value, ast.Call) and any(word.arg == "default_factory" for word in field.value.keywords)
    return f"--{name}.*" if is_group else f"--{name}"
