"""An ONNX file whose weights lie beside it, as those of more than 2 GB must: built, judged, and bad when they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.parity.spec import ParitySpec
from export.artifact import read_artifact
from export.build import Source
from export.errors import RecordError
from export.signature import Signature, SizeRange, TensorSpec
from tests.model_run import ModelRun, vouch

SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", ("batch", 64)),), ranges={"batch": SizeRange(max=16)})


def make(_: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)).eval()


def test_weights_beside_the_file_are_part_of_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.exporters.onnx._ONE_FILE_BYTES", 0)
    source = Source(function=f"{__name__}:make", argument="")
    run = ModelRun(source, SIGNATURE, tmp_path / "run", ParitySpec(rows_count=64))
    folder = run.build("onnx", tmp_path / "onnx")
    assert {file.path for file in read_artifact(folder).files} == {"model.onnx", "model.onnx.data"}
    report = run.judge(folder)
    assert report.status == "pass", report.reasons

    beside = folder / "model.onnx.data"
    weights = np.fromfile(beside, np.float32)
    weights[np.abs(weights).argmax()] *= 1.01
    weights.tofile(beside)
    with pytest.raises(RecordError, match=r"model\.onnx\.data"):
        run.judge(folder)
    vouch(folder)
    assert run.judge(folder).status == "fail"
