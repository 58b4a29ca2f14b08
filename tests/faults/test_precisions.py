"""Every fault that a lower precision invites is caught; the right file of that precision is not refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.parity.report import ParityReport
from tests.faults.files import edit_onnx
from tests.faults.models import SIGNATURES, source
from tests.faults.precisions import HALF, INT8, Fault
from tests.model_run import ModelRun

QUICK = "Mlp"
MODELS = ("Mlp", "Cnn", "Gru", "Encoder")
BACKENDS = ("onnx-fp16", "onnx-int8")
EVERY = [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != QUICK)]


class Runs:
    """The reference of every model and the right artifacts, each made once."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._runs: dict[str, ModelRun] = {}

    def __call__(self, model: str) -> ModelRun:
        if model not in self._runs:
            self._runs[model] = ModelRun(source(model), SIGNATURES[model], self.base / model)
        return self._runs[model]

    def right(self, model: str, backend: str) -> Path:
        """The artifact as it should be, its ranges from normally distributed rows."""
        run, folder = self(model), self.base / model / backend
        if not folder.exists():
            rows = self.base / f"{model}.safetensors"
            example = run.signature.example(dict.fromkeys(run.signature.ranges, 64), seed=1)
            save_file({name: torch.from_numpy(array) for name, array in example.items()}, rows)
            run.build(backend, folder, rows=rows)
        return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("precisions"))


def failed(report: ParityReport) -> list[str]:
    return [f"{check.level}: {check.message}" for check in report.checks if check.status == "fail"]


@pytest.mark.parametrize("fault", [*HALF, *INT8], ids=lambda fault: fault.name)
@pytest.mark.parametrize("model", EVERY)
def test_the_fault_is_caught(fault: Fault, model: str, runs: Runs, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(runs.right(model, fault.backend), folder)

    def edit(graph: object) -> None:
        fault.edit(graph)  # type: ignore[arg-type]

    edit_onnx(folder, edit)
    report = runs(model).judge(folder)
    assert report.status == "fail", report.checks
    assert set(fault.levels) & set(report.failed_levels), failed(report)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", EVERY)
def test_the_right_file_fails_nothing_and_lacks_only_a_metric(backend: str, model: str, runs: Runs) -> None:
    report = runs(model).judge(runs.right(model, backend))
    assert failed(report) == []
    assert report.status == "inconclusive"
    assert [reason for reason in report.reasons if "is judged by the recipe's metric, and there is none" in reason]
