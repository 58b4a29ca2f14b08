"""The suite's command really runs, resumes and keeps its budget; a page's cells come back, and a worse one is named."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance.outcome import BACKENDS, Cell, Outcome, cells, line, outcomes
from tests.conformance.regression import committed, worse
from tests.conformance.suite import KINDS, architectures
from tests.conformance.table import render
from tests.conformance.upstream import UPSTREAM
from tests.conftest import ROOT, environ

PAGE = ROOT / "docs" / "measured" / "conformance.md"
BUDGETED = ("mlp",)
"""Without extra packages, and soon done."""
GOOD = Outcome(
    name="mlp",
    kind="layers",
    seconds=12.0,
    cells=(
        Cell(backend="eager", status="pass"),
        Cell(backend="torchscript", status="refused", levels=("error", "calls"), reason="too far: a | b"),
        Cell(backend="exported", status="no artifact", reason="failed: UserError: dynamic"),
        Cell(backend="onnx", status="not judged", reason="the run ended: why"),
    ),
)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.conformance", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environ(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a few architectures in it that were really run."""
    file = tmp_path_factory.mktemp("conformance") / "run.jsonl"
    done = command("--kind", "layers", "tables", "--only", *BUDGETED, "--out", file)
    assert done.returncode == 0, done.stdout + done.stderr
    return file


def test_a_few_architectures_are_no_worse_than_the_page_has_them(ran: Path) -> None:
    run = outcomes(ran)
    assert [outcome.name for outcome in run] == [*BUDGETED]
    assert all(cell.status == "pass" for cell in run[0].cells), run[0]
    assert worse(run, PAGE.read_text()) == []


def test_what_a_file_holds_is_not_run_again(ran: Path) -> None:
    before = ran.read_bytes()
    done = command("--kind", "layers", "tables", "--only", *BUDGETED, "--out", ran)
    assert (done.returncode, done.stdout, ran.read_bytes()) == (0, "", before)


def test_none_is_begun_when_the_budget_is_used_up(tmp_path: Path) -> None:
    done = command("--only", "mlp", "--kind", "layers", "--budget-s", "0", "--out", tmp_path / "run.jsonl")
    assert done.stdout == "mlp and what follows it: left out, the time is used up\n"
    assert not (tmp_path / "run.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "nothing"), "there is no architecture 'nothing'"),
        (("--kind", "nothing"), "there is no kind 'nothing'"),
    ],
)
def test_a_strange_name_is_refused(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = command(*arguments, "--out", tmp_path / "run.jsonl")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_time_limit_ends_an_architecture_and_is_said(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    assert command("--kind", "layers", "--only", "mlp", "--limit-s", "1", "--out", file).returncode == 0
    assert {(cell.status, cell.reason) for cell in outcomes(file)[0].cells} == {
        ("not judged", "the run took more than 1 s")
    }


def test_an_outcome_is_the_same_read_back(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(line(GOOD) + line(replace(GOOD, name="cnn")))
    assert outcomes(file) == [GOOD, replace(GOOD, name="cnn")]


def test_what_was_printed_is_the_reason_where_there_is_no_report(tmp_path: Path) -> None:
    printed = (
        "build    onnx: failed: no operator\nbuild    exported: 0.1 s, a program\nparity   eager: crashed: SIGSEGV"
    )
    cells_by_name = {
        cell.backend: (cell.status, cell.reason) for cell in cells(tmp_path, "mlp", printed, "the run ended: why")
    }
    assert cells_by_name == {
        "eager": ("not judged", "crashed: SIGSEGV"),
        "torchscript": ("not judged", "the run ended: why"),
        "exported": ("not judged", "the run ended: why"),
        "onnx": ("no artifact", "failed: no operator"),
    }


def test_the_page_has_a_row_for_each_and_every_reason_once() -> None:
    page = render([GOOD, replace(GOOD, name="cnn", seconds=40.0)], "abc on 2 cores")
    assert "| mlp | layers | pass | refused: error, calls [1] | no artifact [2] | not judged [3] | 12 |" in page
    assert page.count(r"1. too far: a \| b") == 1
    assert "| refused | 0 | 2 | 0 | 0 |" in page
    assert "Median 26 s, worst 40 s (cnn)." in page
    assert {key: cell.status for key, cell in committed(page).items()} == {
        (name, cell.backend): cell.status for name in ("mlp", "cnn") for cell in GOOD.cells
    }


def test_what_is_known_upstream_is_said_of_what_does_not_pass() -> None:
    page = render([replace(GOOD, name="mamba")], None)
    assert f"## Upstream\n\n- mamba: {UPSTREAM['mamba']}" in page
    assert "## Upstream" not in render([GOOD], None)
    assert UPSTREAM.keys() <= {architecture.name for architecture in architectures()}


def test_only_what_became_worse_is_named() -> None:
    page = render([GOOD], None)
    assert worse([GOOD, replace(GOOD, name="new")], page) == []
    ended = replace(GOOD, cells=tuple(Cell(backend=name, status="not judged", reason="it ended") for name in BACKENDS))
    assert worse([ended], page) == [
        "mlp: eager was pass, is not judged: it ended",
        "mlp: torchscript was refused, is not judged: it ended",
        "mlp: exported was no artifact, is not judged: it ended",
    ]
    better = replace(GOOD, cells=tuple(Cell(backend=name, status="pass") for name in BACKENDS))
    assert worse([better], page) == []
    assert worse([GOOD], render([better], None))[0] == (
        "mlp: torchscript was pass, is refused (error, calls): too far: a | b"
    )


def test_the_page_knows_no_architecture_that_the_suite_does_not_have() -> None:
    assert {name for name, _ in committed(PAGE.read_text())} <= {entry.name for entry in architectures(KINDS)}
