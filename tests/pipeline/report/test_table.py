"""The table fits the terminal: columns go, words and names stay whole."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console as RichConsole

from bench.stats.effects import Comparison, Ratio
from bench.verdict.figures import Speed
from bench.verdict.judge import Row, Verdict
from pipeline.report import text
from pipeline.report.table import verdict_lines
from tests.pipeline.test_report import HARMLESS, Texts, full_verdict, measured_row, row

WIDTHS = (20, 40, 60, 80, 120, 200)
RATIOS = {"torchscript": 0.9, "onnx": 1 / 190.4, "onnx-int8": 3.6}


def speeds(name: str) -> tuple[Speed, ...]:
    (speed,) = measured_row(name, Texts(HARMLESS)).speeds
    assert speed.to_eager is not None
    value = RATIOS[name]
    comparison: Comparison = "faster" if value < 1 else "slower"
    effect = replace(speed.to_eager, ratio=Ratio(value=value, low=value, high=value), comparison=comparison)
    return tuple(replace(speed, batch_rows=rows, to_eager=effect) for rows in (1, 32, 1024))


def verdict(winner: str = "onnx") -> Verdict:
    """Three rows with every figure, a row that is wrong and a row that was not built."""
    good = [replace(measured_row(name, Texts(HARMLESS)), name=name, speeds=speeds(name)) for name in RATIOS]
    wrong = replace(row("aotinductor"), built=True, parity="fail", reasons=("parity fail: off",), worst_ratio=812.0)
    failed = replace(row("exported"), reasons=("build: failed: " + "a long story " * 30,))
    return replace(full_verdict(Texts(HARMLESS)), rows=(*good, wrong, failed), winner=winner)


def rendered(judged: Verdict, width: int, **settings: bool) -> str:
    """What a terminal of so many columns is sent."""
    console = RichConsole(file=io.StringIO(), width=width, highlight=False, **settings)  # type: ignore[arg-type]
    for line in verdict_lines(judged, width):
        console.print(line, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal_and_every_name_and_mark_is_there(width: int) -> None:
    judged = verdict()
    lines = rendered(judged, width).splitlines()
    assert max(map(len, lines)) <= width
    for line, shown in zip(lines[1:], judged.rows, strict=False):
        assert line.split()[:2] == [text.mark(shown, judged), shown.name]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_word_of_a_narrow_table_is_a_word_of_the_wide_one(width: int) -> None:
    said = {"left", "out", "at", "this", "width,", "the", "report", "has", "them:"}
    words = {word.strip(",") for word in rendered(verdict(), width).split()}
    assert words <= {*rendered(verdict(), 500).split(), *said, "width"}


def test_what_is_left_out_is_said_and_the_rest_is_shown() -> None:
    judged = verdict()
    headings = {"backend", "export", "size", "start", "memory", "parity", "batch 1", "batch 32", "batch 1024"}
    for width in WIDTHS:
        lines = rendered(judged, width).splitlines()
        _, _, remark = " ".join(lines).partition("left out at this width, the report has them: ")
        left_out = {*filter(None, remark.split(", "))}
        heads = {head for head in re.split(r"\s{2,}", lines[0]) if head}
        assert heads | left_out == headings
        assert not heads & left_out
    assert "left out" not in rendered(judged, 200)


def test_parity_and_the_smallest_batch_size_stay_longest() -> None:
    heads = [rendered(verdict(), width).splitlines()[0] for width in (80, 60)]
    assert all("parity" in head and "batch 1 " in f"{head} " for head in heads)
    assert not any("export" in head or "size" in head for head in heads)


def test_a_name_that_is_wider_than_the_terminal_is_still_whole() -> None:
    name = "a-file-of-another-tool-with-a-long-name"
    judged = replace(verdict(), rows=(replace(row(name), built=True),))
    assert f"✗  {name}" in rendered(judged, 20)


def test_a_winner_that_is_slower_than_eager_says_so_in_its_line() -> None:
    line = next(line for line in rendered(verdict("onnx-int8"), 200).splitlines() if "★" in line)
    assert line.endswith("winner, slower than eager at batch 1, 32, 1024")
    assert "(0.28x)" in line
    assert "(190x)" in rendered(verdict(), 200)


def test_no_colour_is_sent_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[1;32m" in rendered(verdict(), 80, force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3\d", rendered(verdict(), 80, force_terminal=True))


def test_a_row_without_figures_may_stand_alone() -> None:
    alone: Row = replace(row("onnx"), reasons=("build: failed",))
    assert rendered(replace(verdict(), rows=(alone,), winner=None), 80).splitlines()[1] == "✗  onnx     not built"
