"""The site of the docs: every public name and every page is on it, and no link of it is broken."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import torchstone
from tests.conftest import ROOT

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
needs_mkdocs = pytest.mark.skipif(
    not (find_spec("mkdocs") and find_spec("mkdocstrings_handlers")), reason="extra: pip install 'torchstone[docs]'"
)


def test_every_public_name_is_on_the_page_of_public_names() -> None:
    listed = re.findall(r"^::: torchstone\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(set(torchstone.__all__) - {"__version__"})


def test_every_page_is_in_the_navigation() -> None:
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    beside = {path.name for path in ROOT.glob("*.md")} - {"README.md"} | {"index.md"}
    listed = re.findall(r"[\w/-]+\.md", str(CONFIG["nav"]))
    assert sorted(listed) == sorted(pages | beside)


@pytest.mark.extra
@needs_mkdocs
def test_the_site_is_made_without_a_warning_and_says_what_the_docstrings_say(tmp_path: Path) -> None:
    done = make_site(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text()
    assert [name for name in torchstone.__all__ if name != "__version__" and f"torchstone.{name}" not in api] == []
    assert "Export a model every way, prove each export right" in api
    assert 'href="check/"' in (tmp_path / "site" / "index.html").read_text()  # the README's link into docs/
    assert 'href="../FORMAT/"' in (tmp_path / "site" / "glossary" / "index.html").read_text()  # a link out of docs/


@pytest.mark.extra
@needs_mkdocs
def test_a_link_out_of_docs_is_refused_where_nothing_takes_the_page_in(tmp_path: Path) -> None:
    """The counterpart: what docs/hooks.py is for."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text((ROOT / "docs" / "glossary.md").read_text())
    (tmp_path / "mkdocs.yml").write_text("site_name: Without\n")
    done = make_site(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert "../FORMAT.md" in done.stderr


def make_site(config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
