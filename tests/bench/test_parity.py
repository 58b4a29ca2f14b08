"""Whole reports: what parity must find, what it must let pass. Faults in artifacts are in tests/faults/."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.parity import judgement
from bench.parity import outputs as outputs_of
from bench.parity.answers import Answers
from bench.parity.cases import Values
from bench.parity.check import Check
from bench.parity.judgement import Answered, judge
from bench.parity.levels import LEVELS
from bench.parity.levels.determinism import call_again
from bench.parity.levels.layouts import layouts
from bench.parity.levels.level import Context, Inside, Level
from bench.parity.levels.refusals import refusals
from bench.parity.outputs import Outputs
from bench.parity.reference import EAGER, FLOAT64
from bench.parity.spec import ParitySpec
from export import registry
from export.artifact import RECORD, Artifact, open_artifact
from export.backend import LoadOptions, Runner, Witness
from export.build import Source
from export.flat import FlatModule
from export.record import read
from tests.bench.conftest import ModelRuns, right
from tests.model_run import ModelRun, vouch
from tests.models import SIGNATURES, make


def _source(function: str, argument: str = "") -> Source:
    return Source(function=f"{__name__}:{function}", argument=argument)


@pytest.mark.parametrize("model", ["Mlp", "ConvNorm", "Nested", "Namesake", "Masked"])
@pytest.mark.parametrize("backend", ["eager", "torchscript", "exported", "onnx"])
def test_a_right_artifact_passes_every_level(model: str, backend: str, runs: ModelRuns) -> None:
    run = runs(model)
    report = run.judge(right(run, backend))
    assert (report.status, report.reasons) == ("pass", ())
    assert {check.level for check in report.checks} <= {level.name for level in LEVELS}
    assert {"structure", "weights", "calls", "sizes", "refusals", "determinism", "execution"} <= {
        check.level for check in report.checks
    }
    for name, bounds in run.signature.ranges.items():
        assert (report.tested_sizes[name].min, report.tested_sizes[name].max) == (bounds.min, bounds.max)


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("compile", "8 as they are; read from"),
        pytest.param("aotinductor", "2 as they are; 6 compiled into code, probed", marks=pytest.mark.slow),
    ],
)
def test_compiled_artifacts_show_their_weights(backend: str, expected: str, runs: ModelRuns) -> None:
    run = runs("ConvNorm")
    report = run.judge(right(run, backend))
    assert report.status == "pass"
    (weights,) = [check for check in report.checks if check.level == "weights"]
    assert (weights.status, weights.message[: len(expected)]) == ("pass", expected)


@pytest.mark.slow
def test_a_weight_compiled_into_code_is_probed(runs: ModelRuns, tmp_path: Path) -> None:
    """One bias of five is off by a hundred thousandth, and no file shows it: Inductor wrote it into its code."""
    folder = runs("ConvNorm").build("aotinductor", tmp_path / "off", _source("bias_slightly_off"))
    report = runs("ConvNorm").judge(folder)
    (weights,) = [check for check in report.checks if check.level == "weights"]
    assert (weights.status, weights.subject) == ("fail", "out.bias")


def bias_slightly_off(argument: str) -> nn.Module:
    module = make("ConvNorm")
    bias = module.get_parameter("out.bias")
    with torch.no_grad():
        bias[bias.abs().argmax()] *= 1 + 1e-5
    return module


@pytest.mark.parametrize("backend", ["onnx", "torchscript"])
def test_a_folded_batch_norm_is_recomputed(backend: str, runs: ModelRuns) -> None:
    run = runs("ConvNorm")
    (weights,) = [check for check in run.judge(right(run, backend)).checks if check.level == "weights"]
    assert weights.status == "pass"
    assert "folded, recomputed" in weights.message


def test_without_the_check_a_wrong_artifact_would_pass(runs: ModelRuns, tmp_path: Path) -> None:
    """The twin of every fault: compared with its own answers, the artifact of another model is perfect."""
    run = runs("Mlp")
    other = ModelRun(_source("retrained"), SIGNATURES["Mlp"], tmp_path / "o")
    folder = right(other, "exported")
    assert run.judge(folder).status == "fail"
    assert other.judge(folder).status == "pass"


def retrained(argument: str) -> nn.Module:
    torch.manual_seed(8)
    return type(make("Mlp"))().eval()


@pytest.mark.parametrize(
    ("change", "subject"), [("conv.weight", "conv.weight"), ("conv.bias", "conv.bias"), ("norm.weight", "norm.weight")]
)
def test_of_what_was_folded_together_the_one_that_differs_is_named(
    change: str, subject: str, runs: ModelRuns, tmp_path: Path
) -> None:
    run = runs("ConvNorm")
    folder = run.build("onnx", tmp_path / "onnx", _source("scaled", change))
    (weights,) = [check for check in run.judge(folder).checks if check.level == "weights"]
    assert (weights.status, weights.subject) == ("fail", subject)
    assert "after folding" in weights.message


def scaled(argument: str) -> nn.Module:
    """One value of a parameter off by a thousandth."""
    module = make("ConvNorm")
    parameter = module.get_parameter(argument)
    with torch.no_grad():
        parameter.view(-1)[parameter.abs().argmax()] *= 1.001
    return module


class Millionth(nn.Module):
    """A product that PyTorch's ONNX exporter leaves out, since it takes 1.000001 for 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.out(x) * 1.000001
        return scaled


def millionth(argument: str) -> nn.Module:
    return Millionth().eval()


def test_what_the_exporter_itself_gets_wrong_is_found(tmp_path: Path) -> None:
    """A millionth is 17 roundings: within every tolerance that others use, and the whole of what the model says."""
    run = ModelRun(_source("millionth"), SIGNATURES["Pointwise"], tmp_path / "millionth")
    assert run.judge(right(run, "exported")).status == "pass"
    report = run.judge(right(run, "onnx"))
    assert report.status == "fail"
    assert "systematic" in report.failed_levels


class Negatives(Level):
    """A level of the tests: what a recipe's author could ask of answers, and of the artifact itself."""

    name = "negatives"
    meaning = "few outputs are negative"

    def __init__(self) -> None:
        self.count = 0

    def observe(self, inside: Inside) -> Iterable[Check]:
        seen = f"{inside.opened.folder.name} was looked into"
        return [Check(level=self.name, subject="folder", status="reported", message=seen)]

    def add(self, answers: Answers) -> None:
        self.count += int((answers.got < 0).sum())

    def checks(self, context: Context) -> Iterable[Check]:
        yield from super().checks(context)
        found = f"{self.count} negative in {len(context.cases)} cases"
        yield Check(
            level=self.name, subject="y", status="fail" if self.count else "pass", message=found, value=self.count
        )


def test_a_level_is_one_class_and_one_line(runs: ModelRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs("Mlp")
    without = run.judge(right(run, "exported"))
    for reader in (judgement, outputs_of):
        monkeypatch.setattr(reader, "LEVELS", (*LEVELS, Negatives))
    report = run.judge(right(run, "exported"))
    seen, judged = (check for check in report.checks if check.level == "negatives")
    assert seen.message == "exported was looked into"
    assert judged.value is not None
    assert judged.value > 0
    assert (without.status, report.status, report.reasons) == ("pass", "fail", (judged.message,))


def test_a_frozen_batch_fails_and_the_dimension_is_named(runs: ModelRuns, tmp_path: Path) -> None:
    run = runs("Mlp")
    folder = tmp_path / "exported"
    shutil.copytree(right(run, "exported"), folder)
    frozen = torch.export.export(FlatModule(make("Mlp"), run.signature).eval(), (torch.zeros(8, 4),))
    torch.export.save(frozen, folder / "model.pt2")
    vouch(folder)
    report = run.judge(folder)
    assert report.status == "fail"
    assert any(reason.startswith("refused rows 0 to 255: ") for reason in report.reasons)
    assert "refused 10 more of the cases in rows" in report.reasons
    refused = {check.level for check in report.checks if check.message.startswith("refused")}
    assert refused == {"structure", "values", "sizes"}
    assert report.tested_sizes == {}


def test_a_witness_of_a_fallback_fails(runs: ModelRuns) -> None:
    run = runs("Mlp")
    artifact = open_artifact(right(run, "exported"))
    answered = Answered(
        artifact=artifact,
        options=LoadOptions(),
        folder=run.reference_folder / EAGER,
        outputs=Outputs(witness=Witness(device="cuda", fallback="3 nodes ran on the CPU"), refusals={}),
        more=(),
        duration_s=0.0,
    )
    report = judge(run.parity.standard, answered, "k")
    assert (report.status, report.reasons, report.failed_levels) == (
        "fail",
        ("3 nodes ran on the CPU",),
        ("execution",),
    )
    good = replace(answered, outputs=Outputs(witness=Witness(device="cuda"), refusals={}))
    assert judge(run.parity.standard, good, "k").status == "pass"


# Behaviour


class Careless(Runner):
    """A driver that checks nothing and hands memory on as it lies: what bare compiled code would see."""

    def __call__(self, inputs: Any) -> Any:
        raw = {name: _as_it_lies(array) for name, array in inputs.items()}
        return {"output": raw["x"].astype(np.float32) * 2}


def _as_it_lies(array: Any) -> Values:
    memory = array.numpy() if isinstance(array, torch.Tensor) else array
    return np.lib.stride_tricks.as_strided(memory, memory.shape, np.empty(memory.shape, memory.dtype).strides).copy()


def test_layouts_and_wrong_inputs_are_caught_where_nothing_guards_them(runs: ModelRuns) -> None:
    run = runs("Pointwise")
    runner = registry.load(right(run, "exported"), LoadOptions())
    inputs = {"x": np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)}
    careless = Careless(runner.artifact, runner._loaded, LoadOptions())
    assert {check.status for check in layouts(runner, inputs)} == {"pass"}
    assert "fail" in {check.status for check in layouts(careless, inputs)}
    assert refusals(runner, inputs).status == "pass"
    accepted = refusals(careless, inputs)
    assert accepted.status == "fail"
    assert "x as float64" in accepted.message


class Drifting(Careless):
    """Another answer every time."""

    calls = 0

    def __call__(self, inputs: Any) -> Any:
        self.calls += 1
        return {"output": inputs["x"] + self.calls}


def test_a_call_that_differs_from_the_last_is_reported(runs: ModelRuns) -> None:
    runner = registry.load(right(runs("Pointwise"), "exported"), LoadOptions())
    inputs = {"x": np.ones((2, 4), np.float32)}
    assert call_again(runner, inputs) is None
    assert "differ" in str(call_again(Drifting(runner.artifact, runner._loaded, LoadOptions()), inputs))


# The run


@pytest.mark.parametrize(
    "spec", [{"batch_rows": ()}, {"max_rms_ratio": 0.5}, {"max_peak_ratio": float("nan")}, {"rows_count": 0}]
)
def test_settings_must_make_sense(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ParitySpec(**spec)


def test_the_built_run_says_why_it_passes(built: Path) -> None:
    for path in (built / "artifacts").iterdir():
        report = json.loads((built / "parity" / f"{path.name}.json").read_bytes())
        assert report["status"] == "pass"
        (output,) = report["outputs"]
        assert output["compared_count"] > 2048
        assert output["flips"]["flips_count"] == 0
        assert report["tested_sizes"] == {"batch": {"min": 1, "max": 65536}}
        metric = next(check for check in report["checks"] if check["level"] == "metric")
        assert metric["subject"] == "train_accuracy"
        assert "n=100 real rows" in metric["message"]


def test_the_artifact_is_measured_as_it_was_proved(built: Path) -> None:
    for path in (built / "artifacts").iterdir():
        artifact = read(Artifact, path / RECORD)
        parity, measurement = (
            json.loads((built / where / f"{artifact.name}.json").read_bytes()) for where in ("parity", "measurements")
        )
        assert parity["artifact_sha256"] == measurement["artifact_sha256"]
        assert parity["options"] == measurement["options"]


def test_the_reference_keeps_one_case_in_memory(built: Path) -> None:
    reference = built / "parity" / "reference"
    cases = len(json.loads((reference / "reference.json").read_bytes())["cases"])
    for kind in ("inputs", FLOAT64, EAGER):
        assert len(list((reference / kind).iterdir())) == cases
