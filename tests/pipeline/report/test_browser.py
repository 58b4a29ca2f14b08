"""The page in a real browser: nothing asked of anybody, nothing cut, and what its script does."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.verdict.judge import Verdict
from export.record import read
from pipeline.report import page as report_page
from tests.pipeline.test_report import HARMLESS, Texts, full_report, full_verdict, measured_row, open_run, results

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HAVE_PLAYWRIGHT = importlib.util.find_spec("playwright") is not None and importlib.util.find_spec(
    "axe_playwright_python"
)
pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(not HAVE_PLAYWRIGHT, reason="extra: pip install 'torchstone[browser]' brings Playwright"),
    pytest.mark.skipif(BROWSER is None, reason="extra: there is neither chromium nor google-chrome here"),
]
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 400, "height": 800}
LONG = "a-name-of-sixty-characters-that-does-not-end-before-it-is-so"
HOSTILE = "<b>bold</b> \u202eright to left\u202c שלום"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page, and whatever it said or asked for."""

    def __init__(self, browser: Browser, path: Path, viewport: Any = WIDE, **options: Any) -> None:
        self.context = browser.new_context(viewport=viewport, **options)
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    @property
    def is_cut(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))

    def first_column(self, selector: str, column: int) -> list[str]:
        rows = f"{selector} tbody tr"
        return [str(text).strip() for text in self.page.eval_on_selector_all(
            rows, f"rows => rows.map(row => row.cells[{column}].textContent)"
        )]  # fmt: skip


def written(folder: Path, verdict: Verdict, names: list[str]) -> Path:
    """The page of a run with these rows."""
    text = Texts(HARMLESS)
    run = open_run(folder, text)
    report_page.write_report(run.files, run.record, results(verdict, {name: full_report(name, text) for name in names}))
    return run.files.page


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1280", "400"])
def test_the_page_of_a_run_asks_for_nothing_says_nothing_and_is_not_cut(
    browser: Browser, built: Path, viewport: dict[str, int]
) -> None:
    opened = Opened(browser, built / "report.html", viewport)
    assert opened.said == []
    assert opened.asked == [(built / "report.html").as_uri()]
    assert not opened.is_cut
    heights = opened.page.eval_on_selector_all("figure svg", "all => all.map(it => it.getBoundingClientRect().height)")
    assert len(heights) > 8
    assert min(heights) > 40
    letters = opened.page.eval_on_selector_all(
        "figure svg text", "all => all.map(it => it.getBoundingClientRect().height)"
    )
    assert min(size for size in letters if size) > 9


def test_a_card_says_whether_its_backend_won(browser: Browser, built: Path) -> None:
    opened = Opened(browser, built / "report.html", NARROW)
    mark = "getComputedStyle(document.querySelector('tr.winner th'), '::before').content"
    assert opened.page.evaluate(mark) == '"★"'


def test_paper_is_light_and_holds_what_is_folded_away(browser: Browser, built: Path) -> None:
    opened = Opened(browser, built / "report.html", color_scheme="dark")
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("details:not([open])").count() == 0


def test_verdict_table_and_command_are_on_the_first_screen(browser: Browser, built: Path) -> None:
    opened = Opened(browser, built / "report.html")
    for selector in (".banner", "table.summary", "code.command"):
        place = opened.page.locator(selector).first.bounding_box()
        assert place is not None
        assert place["y"] + place["height"] <= WIDE["height"], selector


def test_a_table_sorts_by_its_figures_whatever_their_units(browser: Browser, tmp_path: Path) -> None:
    text = Texts("{place}")
    rows = tuple(
        replace(measured_row(name, text), build_s=build_s, size_bytes=size)
        for name, build_s, size in (
            ("slow", 90.0, 5),
            ("quick", 0.5, 2_000_000),
            ("middle", 2.0, 3_000),
            ("none", None, None),
        )
    )
    verdict = replace(full_verdict(text), rows=rows, winner="quick")
    opened = Opened(browser, written(tmp_path, verdict, []))
    opened.page.click("table.summary th:has-text('export') button")
    assert opened.first_column("table.summary", 1) == ["quick", "middle", "slow", "none"]
    opened.page.click("table.summary th:has-text('export') button")
    assert opened.first_column("table.summary", 1) == ["slow", "middle", "quick", "none"]
    opened.page.click("table.summary th:has-text('size') button")
    assert opened.first_column("table.summary", 1) == ["slow", "middle", "quick", "none"]
    assert opened.said == []


def test_one_backend_alone_can_be_looked_at(browser: Browser, built: Path) -> None:
    opened = Opened(browser, built / "report.html")
    opened.page.select_option("label:has-text('backend') select", "onnx")
    assert opened.page.locator("table.summary tbody tr:visible").count() == 1
    assert opened.page.locator("details.backend:visible").count() == 1
    opened.page.select_option("label:has-text('backend') select", "")
    assert opened.page.locator("details.backend:visible").count() == len(read(Verdict, built / "verdict.json").rows)


def test_colours_follow_the_system_until_they_are_chosen(browser: Browser, built: Path) -> None:
    opened = Opened(browser, built / "report.html", color_scheme="dark")
    dark = "getComputedStyle(document.body).backgroundColor"
    assert opened.page.evaluate(dark) == "rgb(20, 24, 29)"
    opened.page.select_option("label:has-text('colours') select", "light")
    assert opened.page.evaluate(dark) == "rgb(255, 255, 255)"
    opened.page.reload()
    assert opened.page.evaluate(dark) == "rgb(255, 255, 255)"


def test_the_values_of_a_bar_are_shown_where_the_pointer_rests(browser: Browser, built: Path) -> None:
    opened = Opened(browser, built / "report.html")
    opened.page.locator("#latency [aria-roledescription='bar']").first.hover()
    shown = opened.page.locator(".tip:visible").text_content() or ""
    assert re.fullmatch(r"microseconds per call, median: [\d.]{1,6}; backend: eager; fastest: false", shown)


def test_all_is_there_without_the_script(browser: Browser, built: Path) -> None:
    opened = Opened(browser, built / "report.html", java_script_enabled=False)
    assert opened.page.locator("table.summary tbody tr").count() == len(read(Verdict, built / "verdict.json").rows)
    assert opened.page.locator("select").count() == 0


@pytest.mark.parametrize(
    "kind",
    [
        "good",
        "failed",
        "hostile names",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("long names", "many rows", "inconclusive")),
    ],
)
def test_axe_finds_nothing_serious_and_nothing_is_cut(browser: Browser, built: Path, tmp_path: Path, kind: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    text = Texts("{place}")
    verdict = full_verdict(text)
    names = {"many rows": [f"backend-{number}" for number in range(14)], "long names": [LONG, LONG[::-1]],
             "hostile names": [HOSTILE, HOSTILE[::-1]]}.get(kind, [])  # fmt: skip
    if names:
        verdict = replace(verdict, rows=tuple(measured_row(name, text) for name in names), winner=names[0])
    if kind in {"failed", "inconclusive"}:
        verdict = replace(verdict, good=False, winner=None)
    if kind == "inconclusive":
        rows = tuple(replace(row, parity="inconclusive", shippable=False) for row in verdict.rows)
        verdict = replace(verdict, rows=rows)
    path = built / "report.html" if kind == "good" else written(tmp_path, verdict, names)
    for viewport, scheme in ((WIDE, "light"), (NARROW, "dark")):
        opened = Opened(browser, path, viewport, color_scheme=scheme)
        assert not opened.is_cut
        assert opened.said == []
        found = Axe().run(opened.page).response["violations"]
        assert [issue["id"] for issue in found if issue["impact"] in {"serious", "critical"}] == []
        opened.context.close()
