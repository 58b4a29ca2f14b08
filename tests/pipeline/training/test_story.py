"""A recipe that uses what training has goes through the whole pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.verdict.judge import Verdict
from export.record import read
from tests.conftest import pipeline

FILE = """
from dataclasses import replace
from pipeline.recipe import Data
from bench.timing.spec import BenchSpec
from bench.parity.spec import ParitySpec
from tests.pipeline.training import small

def recipe():
    return replace(
        small.recipe("numbered", ema_decay=0.9, clip_norm=1.0, schedule="cosine", precision="bfloat16"),
        data=lambda: Data(train=small.Augmented(), validation=small.Augmented()),
        name="rows", backends=("eager", "torchscript", "onnx", "onnx-int8"), required=("onnx",),
        bench=BenchSpec(batch_rows=(1, 8), processes_count=2, rounds_count=5, callers_s=0.02, cold_starts_count=0),
        parity=ParitySpec(rows_count=32),
    )
"""


@pytest.mark.slow
def test_rows_that_are_read_one_by_one_train_calibrate_and_judge(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(FILE)
    done = pipeline("rows.py", "--train.epochs", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = (tmp_path / "artifacts" / "rows" / "latest").resolve()
    verdict = read(Verdict, run / "verdict.json")
    assert verdict.good
    assert {row.name: row.parity for row in verdict.rows if row.name != "eager"}["onnx"] == "pass"
    assert (run / "calibration.safetensors").exists(), "int8 takes its ranges from training rows"
    assert "<h2>Training</h2>" in (run / "report.html").read_text()
    checkpoint = json.loads((run / "checkpoint" / "checkpoint.json").read_bytes())
    assert checkpoint["precision"] == "bfloat16"
    assert "train.rows" in checkpoint["data_sha256"]
