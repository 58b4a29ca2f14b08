"""The whole story on real data.

Its parts run in every test run: the training in test_train.py, a convolution with batch norm and dropout through parity
in tests/bench/test_parity.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.verdict.judge import Verdict
from export.record import read
from tests.conftest import pipeline


@pytest.mark.slow
def test_digits_from_nothing_to_a_good_verdict(tmp_path: Path) -> None:
    done = pipeline("digits", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = read(Verdict, tmp_path / "digits" / "latest" / "verdict.json")
    assert verdict.metrics["test_accuracy"] >= 0.985
    assert {row.name for row in verdict.rows if row.shippable} == {
        "torchscript", "exported", "compile", "aotinductor", "onnx",
    }  # fmt: skip
    for row in verdict.rows:
        assert [speed.batch_rows for speed in row.speeds] == [1, 32, 1024]
