"""The model card: whatever a recipe's texts hold, they are shown, and do nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from bench.parity.report import ParityReport
from bench.verdict.judge import Verdict
from export.record import read
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.bundle.markdown import code, front_matter, inline, table
from pipeline.bundle.model_card import write_model_card
from pipeline.bundle.record import Bundle

EVIL = (
    "MIT\n---\nevil: true", "a | b", "a\\| b", "`rm`", "``` x", "<script>alert(1)</script>", "&lt;b&gt;", "# x", "- x",
    "1. x", "===", "> x", "~~x~~", "**x**", "_x_", "[x](http://x)", "![x](y)", "\u2028x\u0085y\x0cz", "\x1b[31m",
    "\u202egnp", "no", "1e3", "",
)  # fmt: skip
names = st.from_regex(r"[^\W\d]\w*", fullmatch=True).filter(str.isidentifier)
"""What a symbol may be called."""
texts = st.one_of(st.sampled_from(EVIL), st.text(), st.text("|\\`*_<>&#\n-=1. a", max_size=12))


def _render(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def _shown(token: Token) -> str:
    """What a reader sees of one block."""
    return "".join(child.content for child in token.children or ())


def _kinds(tokens: list[Token]) -> Iterator[str]:
    """Every kind of element in them."""
    for token in tokens:
        yield token.type
        yield from (child.type for child in token.children or ())


def _plain(text: str) -> str:
    """A text as it should be seen."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


@settings(deadline=None)
@given(texts)
def test_a_text_is_shown_as_it_is_wherever_it_stands(text: str) -> None:
    for before, after in (("", ""), ("before ", " after")):
        tokens = _render(before + inline(text) + after)
        assert set(_kinds(tokens)) <= {"paragraph_open", "inline", "text", "paragraph_close", "text_special"}
        assert "".join(_shown(token) for token in tokens) == before + _plain(text) + after


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=4))
def test_a_table_keeps_its_rows_and_columns(rows: list[tuple[str, str, str]]) -> None:
    cells = [(inline(first), code(second), inline(third)) for first, second, third in rows]
    tokens = _render("\n".join(table(("a", "b", "c"), cells)))
    assert tokens[0].type == "table_open"
    assert tokens[-1].type == "table_close"
    shown = [_shown(token) for token in tokens if token.type == "inline"]
    assert shown == ["a", "b", "c", *(_plain(text) for row in rows for text in row)]


@given(texts)
def test_front_matter_holds_exactly_the_value(value: str) -> None:
    lines = list(front_matter(license=value))
    assert (lines[0], lines[-1], len(lines)) == ("---", "---", 3)
    assert len("\n".join(lines).splitlines()) == 3
    assert yaml.safe_load(lines[1]) == {"license": value}


def test_a_text_as_it_is_would_do_all_that() -> None:
    assert yaml.safe_load("license: MIT\nevil: true") == {"license": "MIT", "evil": True}
    assert "html_inline" in set(_kinds(_render("before <script>alert(1)</script>")))
    assert "strong_open" in set(_kinds(_render("**x**")))
    (_, cell) = (_shown(token) for token in _render("\n".join(table(("a",), [("x | y",)]))) if token.type == "inline")
    assert cell == "x"


@dataclass(frozen=True, repr=False)
class Card:
    """The shared run's model card, with texts of one's own."""

    bundle: Bundle
    verdict: Verdict
    report: ParityReport
    path: Path

    def lines(self, licence: str, symbol: str, reason: str, metric: str) -> list[str]:
        """``symbol`` counts the rows."""
        signature = Signature(
            inputs=(TensorSpec("x", "float32", (symbol, 2)),),
            output_names=("y",),
            outputs=(TensorSpec("y", "float32", (symbol, 1)),),
            ranges={symbol: SizeRange()},
        )
        (shipped,) = self.bundle.shipped
        shipped = replace(shipped, tested_sizes={symbol: shipped.tested_sizes["batch"]})
        bundle = replace(self.bundle, licence=licence, signature=signature, shipped=(shipped,))
        verdict = replace(self.verdict, reasons=(reason,), metrics={metric: 1.0})
        write_model_card(self.path, bundle, verdict, {"onnx": self.report})
        return self.path.read_text().splitlines()


@pytest.fixture(scope="module")
def card(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Card:
    bundle, records = built / "bundle", built / "bundle" / "records"
    return Card(
        bundle=read(Bundle, bundle / "bundle.json"),
        verdict=read(Verdict, records / "verdict.json"),
        report=read(ParityReport, records / "parity" / "onnx.json"),
        path=tmp_path_factory.mktemp("card") / "README.md",
    )


def test_the_card_says_what_triton_does_not_serve(card: Card) -> None:
    signature = Signature(
        inputs=(TensorSpec("x", "float32", (2,)),), output_names=("loss",), outputs=(TensorSpec("loss", "float32", ()),)
    )
    package = replace(card.bundle.shipped[0], backend="aotinductor", tested_sizes={})
    for record, says in ((card.bundle, False), (replace(card.bundle, shipped=(package,), signature=signature), True)):
        write_model_card(card.path, record, card.verdict, {"onnx": card.report})
        assert ("Triton does not serve onnx: its PyTorch backend" in card.path.read_text()) is says


@settings(max_examples=50, deadline=None)
@given(licence=texts.filter(str.strip), symbol=names, reason=texts, metric=texts)
@example(licence="MIT\n---\nevil: true", symbol="_n_", reason="<b>", metric="a\nb")
@example(licence="1", symbol="_1_", reason="1", metric="1")
def test_the_card_has_the_same_lines_whatever_the_texts_are(
    licence: str, symbol: str, reason: str, metric: str, card: Card
) -> None:
    lines, plain = card.lines(licence, symbol, reason, metric), card.lines("MIT", "n", "x", "m")
    assert len(lines) == len(plain)
    assert [line for line in lines if line == "---"] == ["---", "---"]
    assert yaml.safe_load(lines[1]) == {"license": licence.lower()}
    tokens, expected = _render("\n".join(lines[3:])), _render("\n".join(plain[3:]))
    assert [token.type for token in tokens] == [token.type for token in expected]
    assert set(_kinds(tokens)) <= {*_kinds(expected), "text_special"}
