"""The map of the source, a row per file, written from the first sentence of each file's docstring.

python -m tests.measure.map     writes docs/map.md
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT
from tests.measure.architecture import PACKAGES

PAGE = ROOT / "docs" / "map.md"
HEADING = """# The map, file by file

`python -m tests.measure.map` writes this page from the first sentence of each file's docstring: change it there. The
README has the map by folder, and says where to begin.
"""


def folders(root: Path = ROOT) -> list[Path]:
    """The folders of the packages that hold Python files, parents before their children."""
    found = {path.parent for package in PACKAGES for path in (root / package).rglob("*.py")}
    order = [root / package for package in PACKAGES]
    return sorted(found, key=lambda folder: (order.index(root / folder.relative_to(root).parts[0]), folder))


def first_sentence(file: Path) -> str:
    """As Markdown, on one line."""
    paragraph = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0]
    sentence = re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]
    return " ".join(sentence.split()).replace("``", "`").replace("|", r"\|")


def page(root: Path = ROOT) -> str:
    """The whole of docs/map.md."""
    return "\n".join([HEADING, *_lines(root)]) + "\n"


def _lines(root: Path) -> Iterator[str]:
    for number, folder in enumerate(folders(root)):
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        yield from [""] * (number > 0)
        yield f"## `{folder.relative_to(root).as_posix()}/`\n"
        if (folder / "__init__.py").exists():
            yield first_sentence(folder / "__init__.py") + "\n"
        if files:
            yield "| file | what it holds |\n|---|---|"
        yield from (f"| `{file.relative_to(root).as_posix()}` | {first_sentence(file)} |" for file in files)


if __name__ == "__main__":
    PAGE.write_text(page())
