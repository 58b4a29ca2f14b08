"""Any text as Markdown that shows it and does nothing else: no markup, no HTML, no further line, no further column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import yaml

_ACTIVE = re.compile(r"([\\`*\[\]<#&|~$]|(?<![^\W_])_|_(?![^\W_]))")
"""What means something inside of a line, in CommonMark and in GitHub's dialect; inside of a word, ``_`` does not."""
_BEGINNING = re.compile(r"^(\d*)([-+=>.)])")
"""What would begin a list or a quotation, or underline a heading."""
_NO_CODE = frozenset("`|\\")
"""Characters that a code span in a table cannot hold."""


def inline(text: str) -> str:
    """A text inside of a line; at its beginning too, unless ``.`` or ``)`` follows, which make a number an item."""
    return _BEGINNING.sub(r"\1\\\2", _ACTIVE.sub(r"\\\1", _one_line(text)))


def code(text: str) -> str:
    """A name as a code span; plainly, where it holds what no code span can."""
    line = _one_line(text)
    return f"`{line}`" if line and not _NO_CODE & set(line) else inline(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose cells are Markdown already."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def front_matter(**values: str) -> Iterator[str]:
    """Lines of YAML before the Markdown; quoted, each value stays on its line."""
    yield "---"
    for name, value in values.items():
        quoted = yaml.safe_dump(value, default_style='"', width=float("inf"))
        yield f"{name}: {quoted.strip()}"
    yield "---"


def _one_line(text: str) -> str:
    """White space of any kind as single blanks, and a mark for what cannot be seen."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
