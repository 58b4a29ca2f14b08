"""Whole runs of the built-in recipes on real data."""

from __future__ import annotations

from pathlib import Path

from bench.verdict.judge import Verdict
from export.record import read
from tests.conftest import pipeline


def good_verdict(recipe: str, out: Path) -> Verdict:
    """From nothing to the end; every standard backend may ship."""
    done = pipeline(recipe, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = read(Verdict, out / recipe / "latest" / "verdict.json")
    assert {"torchscript", "compile", "aotinductor", "onnx"} <= {row.name for row in verdict.rows if row.shippable}
    return verdict
