"""``torchstone report``: the page of a finished run, from its records alone."""

from __future__ import annotations

import re
from pathlib import Path

from tests.pipeline.conftest import latest
from tests.torchstone.test_main import command


def without_command(page: Path) -> str:
    """How a command is typed depends on how this one was."""
    return re.sub(r'<code class="command">[^<]*</code>', "", page.read_text())


def test_the_page_is_the_one_that_the_run_left(mine: Path) -> None:
    page = latest(mine) / "report.html"
    before = without_command(page)
    page.unlink()
    done = command("report", "cheap", "--out", str(mine / "artifacts"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == f"report: {page}"
    assert without_command(page) == before


def test_a_run_without_a_verdict_is_named(mine: Path) -> None:
    (latest(mine) / "verdict.json").unlink()
    done = command("report", str(latest(mine)))
    assert done.returncode == 2
    assert "has no verdict to show" in done.stderr
