"""Every fault that a lower precision invites is caught; the right file of that precision is not refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file

from bench.parity.check import Check
from bench.parity.contents.opened import Opened
from bench.parity.contents.quantized import quantized_checks
from bench.parity.report import ParityReport
from export.artifact import open_artifact
from tests.faults.files import edit_onnx
from tests.faults.planted import ModelRuns
from tests.faults.precisions import HALF, INT8, Edit, Fault, bias_of_another, bias_times, channel_scale
from tests.model_run import ModelRun

QUICK = "Mlp"
MODELS = ("Mlp", "Cnn", "Gru", "Encoder")
BACKENDS = ("onnx-fp16", "onnx-int8")
EVERY = [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != QUICK)]


class Runs(ModelRuns):
    """With artifacts that take their ranges from rows."""

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


def nameless(model: onnx.ModelProto) -> None:
    """As tools leave files that rename what they quantise."""
    names = {tensor.name: f"t{index}" for index, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def steps_checks(run: ModelRun, folder: Path, edits: tuple[Edit, ...], scratch: Path) -> list[Check]:
    """What the files alone say of an int8 artifact after edits."""
    shutil.copytree(folder, scratch)
    for edit in edits:
        edit_onnx(scratch, edit)
    return list(quantized_checks(Opened(open_artifact(scratch), scratch, run.program), run.weights))


GROSS = [*map(channel_scale, (3, 4, 8)), *map(bias_times, (2, -1)), bias_of_another]


@pytest.mark.parametrize("edit", GROSS, ids=["x3", "x4", "x8", "bias x2", "bias turned", "bias of another"])
def test_gross_faults_of_int8_are_never_vouched_for(edit: Edit, runs: Runs, tmp_path: Path) -> None:
    run, folder = runs(QUICK), runs.right(QUICK, "onnx-int8")
    named = steps_checks(run, folder, (edit,), tmp_path / "named")
    assert {check.status for check in named} == {"fail"}, named
    renamed = steps_checks(run, folder, (edit, nameless), tmp_path / "nameless")
    assert {check.status for check in renamed} <= {"fail", "inconclusive"}, renamed


def test_the_right_steps_pass_by_name_and_by_value(runs: Runs, tmp_path: Path) -> None:
    """The twin."""
    run, folder = runs(QUICK), runs.right(QUICK, "onnx-int8")
    for name, edits in (("named", ()), ("nameless", (nameless,))):
        (check,) = steps_checks(run, folder, edits, tmp_path / name)
        assert (check.status, check.message.split(",")[0]) == ("pass", "6 quantised weights and biases")
