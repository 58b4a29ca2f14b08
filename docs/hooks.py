"""The site of the docs takes in the pages that lie beside docs/, and links between both lead to the same page there."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
BESIDE = {
    "README.md": "index.md",
    "FORMAT.md": "FORMAT.md",
    "SECURITY.md": "SECURITY.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
"""Where each stands in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them as if they lay in docs/, with their links to docs/ and to each other."""
    for name, place in BESIDE.items():
        text = (ROOT / name).read_text().replace("](docs/", "](")
        for target, there in BESIDE.items():
            text = text.replace(f"]({target}", f"]({there}")
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """A link out of docs/ leads to the page that was taken in."""
    up = "../" * page.file.src_uri.count("/")
    return re.sub(
        rf"\]\({re.escape(up)}\.\./({'|'.join(map(re.escape, BESIDE))})",
        lambda match: f"]({up}{BESIDE[match[1]]}",
        markdown,
    )
