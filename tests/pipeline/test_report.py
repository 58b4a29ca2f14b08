"""The page stands alone: no script, nothing loaded, everything said."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from bench.verdict.judge import Verdict
from export.record import read


class Tags(HTMLParser):
    """Every tag with its attributes, and every text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def parsed(run: Path) -> Tags:
    tags = Tags()
    tags.feed((run / "report.html").read_text())
    return tags


def test_the_page_loads_nothing_and_runs_nothing(built: Path) -> None:
    page = parsed(built)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "img", "object"} & set(names)
    assert not [attributes for _, attributes in page.tags if {"src", "onclick", "onload"} & set(attributes)]
    assert not re.findall(r"url\(\s*['\"]?http", (built / "report.html").read_text())
    assert names.count("svg") == 2
    assert (built / "report.html").stat().st_size < 200_000


def test_the_page_says_the_verdict_and_every_row(built: Path) -> None:
    verdict = read(Verdict, built / "verdict.json")
    texts = parsed(built).texts
    assert f"Ship {verdict.winner}." in texts
    assert verdict.reasons[0] in texts
    for row in verdict.rows:
        assert row.name in texts


def test_every_row_has_a_bar_in_every_panel_and_one_in_the_parity_plot(built: Path) -> None:
    """Bars are drawn, with a length: a scale that hides them shows here."""
    verdict = read(Verdict, built / "verdict.json")
    bars = [
        attributes.get("d") or ""
        for tag, attributes in parsed(built).tags
        if attributes.get("aria-roledescription") == "bar"
    ]
    assert len(bars) == len(verdict.rows) * (3 + 1)
    assert all(re.match(r"M0,[\d.]+h[1-9]", bar) for bar in bars), bars
