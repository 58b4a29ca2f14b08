"""The pages name what there is: the maps are complete, and paths, modules and links exist."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from tests.measure.architecture import PACKAGES
from tests.measure.map import PAGE, page

README = (ROOT / "README.md").read_text()
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for place in ("*.md", "docs/*.md", "artifacts/*.md")
    for path in ROOT.glob(place)
    if path.name != "CHANGELOG.md"  # tells of files that are gone
)
OURS = re.compile(
    r"(pipeline|export|bench|tests|docs|examples|\.ci|\.github)/[\w./-]*|(Makefile|constraints\.txt|pyproject\.toml|[A-Z]+\.md)"
)


def test_every_folder_is_on_the_map_and_every_line_of_the_map_names_what_there_is() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|.*\| `([^`]+)` \|$", README, flags=re.MULTILINE)
    on_map = {folder for names, _ in rows for folder in re.findall(r"`([^`]+)`", names)}
    sources = (path for top in (*PACKAGES, "tests", "examples") for path in (ROOT / top).rglob("*.py"))
    there = {path.parent.relative_to(ROOT).as_posix() for path in sources if "golden" not in path.parts}
    assert there <= on_map
    assert [name for name in on_map if not (ROOT / name).is_dir()] == []
    assert [first for _, first in rows if not (ROOT / first).is_file()] == []


def test_the_map_by_file_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text() == page(), "python -m tests.measure.map writes it"


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_is_there(name: str) -> None:
    """Paths of ours in backticks, modules after ``python -m``, and links to other pages."""
    text = (ROOT / name).read_text()
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    named = [word for span in spans for word in span.split() if OURS.fullmatch(word)]
    modules = re.findall(r"python -m ((?:pipeline|export|bench|tests)(?:\.\w+)*)", text)
    named += [_module_file(module) for module in modules]
    links = re.findall(r"\]\(([^):#]+)\)", text)
    missing = [path for path in named if not (ROOT / path).exists()]
    assert missing + [link for link in links if not ((ROOT / name).parent / link).exists()] == []


def _module_file(module: str) -> str:
    place = module.replace(".", "/")
    return f"{place}/__main__.py" if (ROOT / place / "__main__.py").exists() else f"{place}.py"
