"""The page stands alone: nothing loaded, everything said; and no text from a record becomes markup."""

from __future__ import annotations

import ast
import base64
import hashlib
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType

import jinja2
import pytest

from bench.parity.check import Check
from bench.parity.levels.undetermined import CaseSpread
from bench.parity.reference import Reference
from bench.parity.report import ParityReport
from bench.parity.spec import ParitySpec, Thresholds
from bench.stats.effects import Effect, Ratio
from bench.stats.quantiles import Percentile
from bench.verdict.figures import ColdFigures, ConcurrencyFigures, Speed
from bench.verdict.judge import Row, Verdict
from bench.verdict.limits import Limits
from export.backend import LoadOptions, Witness
from export.record import Observed, read, write
from export.registry import BASELINE
from pipeline.console import Console
from pipeline.find import find
from pipeline.report import page as report_page
from pipeline.report.results import Results
from pipeline.run import RecipeRecord, Run
from tests.conftest import ROOT

REPORT = ROOT / "pipeline" / "report"
HOSTILE = """<script>{place}</script> "double" 'single' & &amp; {{{{ 7*7 }}}} {{% raw %}} {{# #}}"""
HARMLESS = "the text of {place}"


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


class Texts:
    """Texts to put into records, each with its place in it; keeps those that the page must show."""

    def __init__(self, template: str) -> None:
        self.template = template
        self.shown: list[str] = []

    def __call__(self, place: str, characters_count: int | None = None) -> str:
        text = self.template.format(place=place)[:characters_count]
        self.shown.append(text)
        return text


def row(name: str) -> Row:
    """A row of which nothing is known but its name."""
    return Row(
        name=name, required=True, shippable=False, built=False, parity=None, reasons=(), log=None, reproduce=None,
        size_bytes=None, build_s=None, worst_ratio=None, options=None, effective={}, speeds=(), concurrency=(),
        cold=None, on_pareto_front=False, why_not=None, artifact_sha256=None, parity_sha256=None,
        measurement_sha256=None,
    )  # fmt: skip


def measured_row(name: str, text: Texts) -> Row:
    """A row with every figure that the page shows."""
    effect = Effect(
        ratio=Ratio(value=0.5, low=0.4, high=0.6), comparison="faster", noise_ratio=0.01, detectable_ratio=0.02,
        needs_processes_count=None,
    )  # fmt: skip
    p99 = Percentile(share=0.99, value_s=3e-5, low_s=2e-5, high_s=4e-5, calls_count=500)
    speed = Speed(
        batch_rows=1, median_s=2e-5, checked_s=3e-5, rows_per_s=5e4, percentiles=(p99,), settled=True,
        to_eager=effect, at_threads={text("threads"): 1e-5}, least_s=1e-5, binds="memory", joules_per_call=None,
    )  # fmt: skip
    load = ConcurrencyFigures(callers_count=4, batch_rows=1, rows_per_s=1e5, calls_count=1000, p50_s=4e-5, p99=p99)
    cold = ColdFigures(
        start_s=0.1, import_s=0.2, load_s=0.1, first_call_s=0.01, total_s=0.5, first_bytes=10**8, peak_bytes=2 * 10**8,
        device_bytes=None,
    )  # fmt: skip
    return replace(
        row(name), shippable=True, built=True, parity="pass", size_bytes=1000, build_s=1.5, worst_ratio=1.2,
        options=LoadOptions(),
        effective={"precision": text("precision"), "float32_products": text("products"), "why_slow": text("slow")},
        speeds=(speed,), concurrency=(load,), cold=cold,
    )  # fmt: skip


def full_verdict(text: Texts) -> Verdict:
    """A winner, one passed over, one that failed, the baseline: every text that a verdict holds."""
    winner = measured_row(text("winner"), text)
    passed_over = replace(measured_row(text("passed over"), text), on_pareto_front=True, why_not=text("why not"))
    failed = replace(
        row(text("failed")), reasons=(text("reason 1"), text("reason 2")), log=text("log"), reproduce=text("reproduce")
    )
    return Verdict(
        key=text("key", 12), recipe=text("recipe"), good=True, winner=winner.name, tied=(),
        reasons=(text("verdict reason 1"), text("verdict reason 2")),
        rows=(replace(row(BASELINE), parity="pass"), winner, passed_over, failed),
        warnings=(text("warning"),), session_sha256=None, empty_block_s=1e-8, empty_call_s=2e-8, limits=Limits(),
        metrics={text("metric"): 0.5}, observed=Observed(at=text("date"), duration_s=1.0, host="host"),
    )  # fmt: skip


def full_report(name: str, text: Texts) -> ParityReport:
    """Findings that pass and that do not, by thresholds that were raised."""
    checks = (
        Check(level="error", subject=text("passing subject"), status="pass", message=text("passing message")),
        Check(level="weights", subject=text("failing subject"), status="fail", message=text("failing message")),
    )
    spread = CaseSpread(output="", group="", case=text("case"), largest_unit=1e-6, undetermined_count=1)
    return ParityReport(
        key="", artifact=name, artifact_sha256="", reference_sha256="", status="fail", reasons=(), spec=ParitySpec(),
        thresholds=Thresholds(max_rms_ratio=2.0, max_peak_ratio=4.0, max_slope_ulps=4.0, raised=text("raised")),
        options=LoadOptions(), checks=checks, outputs=(), spreads=(spread,), tested_sizes={},
        witness=Witness(device="cpu"), observed=Observed(at="", duration_s=0.0, host=""),
    )  # fmt: skip


def results(verdict: Verdict, reports: Mapping[str, ParityReport] = MappingProxyType({})) -> Results:
    """Of a run of which nothing else is left."""
    return Results(verdict=verdict, artifacts={}, reports=reports, measurements={})


def full_reference(text: Texts) -> Reference:
    """What was seen of the model."""
    return Reference(
        key="", checkpoint_sha256="", cases=(), real_rows_count=0, left_out={text("left out"): text("why")},
        float64_by=None, failure=None, variants=(), remarks=(text("remark"),), files=(),
        observed=Observed(at="", duration_s=0.0, host=""),
    )  # fmt: skip


def open_run(folder: Path, text: Texts) -> Run:
    """A run whose folder, device and machine have the texts too."""
    machine = {"cpu": text("processor"), "cores_count": 2, "gpus": [text("GPU")]}
    versions = {text("package"): text("version")}
    environment = {"machine": machine, "versions": versions, "python": text("python")}
    record = RecipeRecord(
        name="", function="", seed=0, device=text("device"), signature=None, settings={}, source_sha256={},
        file_sha256={}, tool_sha256={}, environment=environment,
    )  # fmt: skip
    return Run(found=find("seed"), device="cpu", folder=folder, record=record, console=Console(quiet=True))


def written(parent: Path, text: Texts) -> Path:
    """The folder of a run whose page shows every text that a record can bring to it."""
    folder = parent / text("folder").replace("/", "|")  # a name of a folder holds no slash
    text.shown[-1] = folder.name
    run = open_run(folder, text)
    run.files.reference_record.parent.mkdir(parents=True)
    write(run.files.reference_record, full_reference(text))
    verdict = full_verdict(text)
    names = [row.name for row in verdict.rows if row.name != BASELINE]
    report_page.write_report(run.files, run.record, results(verdict, {name: full_report(name, text) for name in names}))
    return folder


def test_the_page_loads_nothing_and_runs_its_own_script_alone(built: Path) -> None:
    page, source = parsed(built), (built / "report.html").read_text()
    names = [tag for tag, _ in page.tags]
    assert not {"link", "iframe", "img", "object", "form"} & set(names)
    assert not [attributes for _, attributes in page.tags if {"src", "style", "onclick", "onload"} & set(attributes)]
    assert not re.findall(r"url\(\s*['\"]?http", source)
    assert (built / "report.html").stat().st_size < 2_000_000
    [policy] = [attributes["content"] or "" for _, attributes in page.tags if "http-equiv" in attributes]
    for tag in ("script", "style"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", source, flags=re.DOTALL)
        allowed = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{allowed}';" in policy
    assert policy.startswith("default-src 'none';")


def test_every_plot_says_what_it_shows_and_has_its_figures(built: Path) -> None:
    source = (built / "report.html").read_text()
    figures = re.findall(r'<figure id="([\w-]+)">(.*?)</figure>', source, flags=re.DOTALL)
    assert {name for name, _ in figures} >= {
        "latency", "throughput", "ratios", "distribution", "start-up", "room", "errors", "ulps", "training",
    }  # fmt: skip
    for name, figure in figures:
        assert re.search(r"<svg [^>]*><title>[^<]+</title><desc>[^<]+</desc>", figure), name
        assert figure.count("<tr") > 2, name
        assert ("<tr data-backend=" in figure) is not name.startswith("training"), name


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
    source = (built / "report.html").read_text()
    drawn = [re.findall(rf'<figure id="{name}">(.*?)</figure>', source, re.DOTALL)[0] for name in ("latency", "errors")]
    tags = Tags()
    tags.feed("".join(drawn))
    bars = [attributes.get("d") or "" for _, attributes in tags.tags if attributes.get("aria-roledescription") == "bar"]
    stated = [speed for row in verdict.rows for speed in row.speeds if speed.spoilt is None]
    assert len(bars) == len(stated) + len(verdict.rows)
    lengths = [float(re.match(r"M0,[\d.]+h([\d.]+)", bar).group(1)) for bar in bars]  # type: ignore[union-attr]
    assert all(length > 0 for length in lengths), bars  # below a pixel where another is hundreds of times slower


def assert_texts_stay_texts(parent: Path) -> None:
    """Hostile texts are all there to be read, and the page has the very tags that harmless ones give it."""
    hostile, harmless = Texts(HOSTILE), Texts(HARMLESS)
    page, expected = parsed(written(parent, hostile)), parsed(written(parent, harmless))
    assert _structure(page) == _structure(expected)
    for texts, shown_page in ((hostile, page), (harmless, expected)):
        shown = [
            *shown_page.texts,
            *(value or "" for _, attributes in shown_page.tags for value in attributes.values()),
        ]
        typed = {text: shlex.quote(text)[1:-1] for text in texts.shown}  # a path in a command is quoted for a shell
        missing = [text for text in texts.shown if not any(text in it or typed[text] in it for it in shown)]
        assert not missing


def _structure(page: Tags) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attributes)) for tag, attributes in page.tags]


def test_no_text_from_a_record_becomes_markup_or_is_evaluated(tmp_path: Path) -> None:
    assert_texts_stay_texts(tmp_path)


def test_without_escaping_they_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unescaped = report_page.templates().overlay(autoescape=False)
    monkeypatch.setattr(report_page, "templates", lambda: unescaped)
    with pytest.raises(AssertionError, match="script"):
        assert_texts_stay_texts(tmp_path)


def test_what_a_template_is_not_given_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="verdict_sha256"):
        report_page.templates().get_template("page.html.j2").render()


def test_a_page_is_written_once_for_a_verdict(tmp_path: Path) -> None:
    text = Texts(HARMLESS)
    run, verdict = open_run(tmp_path, text), full_verdict(text)
    path = tmp_path / "report.html"
    report_page.write_report(run.files, run.record, results(verdict))
    first = path.stat().st_ino
    report_page.write_report(run.files, run.record, results(verdict))
    assert path.stat().st_ino == first
    report_page.write_report(run.files, run.record, results(replace(verdict, winner=None)))
    assert path.stat().st_ino != first
    assert "Nothing may ship." in parsed(tmp_path).texts


def test_a_verdict_without_measurements_or_reports_has_a_page(tmp_path: Path) -> None:
    texts = Texts(HARMLESS)
    verdict = replace(full_verdict(texts), rows=(row("failed"),), good=False, winner=None)
    run = open_run(tmp_path, texts)
    report_page.write_report(run.files, run.record, results(verdict))
    page = parsed(tmp_path)
    assert [text for text in page.texts if text in {"Latency", "Parity", "Facts"}] == ["Facts"]


def test_markup_is_in_the_templates_alone() -> None:
    for path in REPORT.rglob("*.py"):
        markup = [text for text in _strings(path) if re.search(r"</?[a-z!]|&#?\w+;", text)]
        assert not markup, f"{path} holds markup: {markup}"
        assert path.name == "drawing.py" or "Markup" not in path.read_text()
    for path in REPORT.rglob("*.j2"):
        assert not re.search(r"\|\s*safe\b|autoescape", path.read_text()), f"{path} turns escaping off"


def _strings(path: Path) -> Iterable[str]:
    """Every string of a module that is not a docstring."""
    tree = ast.parse(path.read_text())
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def test_an_installed_package_has_every_template() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["pipeline.report"]
    packaged = {path for pattern in patterns for path in REPORT.glob(pattern)}
    assert packaged == {path for path in REPORT.rglob("*") if path.suffix in {".j2", ".css", ".js"}}
    assert len(packaged) == 11
