"""Models with a side: whole calls, random numbers, inputs written to, gradients inside, scalars, bfloat16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bench.parity.cases import Pool, plan
from bench.parity.changes import EXTREMES, VALUES
from bench.parity.levels.undetermined import CaseSpread
from bench.parity.perturbed import Cramped
from bench.parity.run import ParityRun
from bench.parity.spec import ParitySpec
from export.build import Source
from export.errors import UserError
from export.signature import Signature, SizeRange, TensorSpec
from tests.bench.conftest import right
from tests.model_run import ModelRun, vouch

BACKENDS = pytest.mark.parametrize(
    "backend",
    [pytest.param("exported", marks=pytest.mark.slow), pytest.param("torchscript", marks=pytest.mark.slow), "onnx"],
)
FEW = ParitySpec(rows_count=256)
ROWS = Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(min=2, max=300)})

WIDE = Signature(inputs=(TensorSpec("x", "float32", ("batch", 64)),), ranges={"batch": SizeRange(max=300)})


class Together(nn.Module):
    """Normalises over the rows of the call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh((x - x.mean(0)) / (x.std(0) + 1))


class Writes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return torch.tanh(x)


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5)


class Forces(nn.Module):
    """The gradient of an energy."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            forces: torch.Tensor
            (forces,) = torch.autograd.grad(torch.tanh(x).square().sum(), x)
            return forces


class Scalars(nn.Module):
    """A 0-d input, a 0-d output, rows against rows, an input handed out."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (x * scale).sum() / x.numel(), "against": torch.tanh(x @ x.T), "same": x}


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 8).bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.out(x))


class Normed(nn.Module):
    """A row of equal values has a deviation of its roundings alone: float32 leaves much of it undetermined."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(64)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(x * 1.7)
        return normed


class Recurrent(nn.Module):
    """A length that ``torch.export`` cannot leave open: there is no traced program."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.RNN(4, 8, num_layers=2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps: torch.Tensor
        steps, _ = self.cells(x)
        return steps


class Attends(nn.Module):
    """Where values near overflow meet, an exporter that scales products overflows, one that scales factors does not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Parameter(torch.randn(1, 4, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.attention(self.query.expand(x.shape[0], -1, -1), x, x)[0]
        return mixed


class Cached(nn.Module):
    """A nested input, a flag, and the nested input handed on."""

    def forward(
        self, x: torch.Tensor, cache: list[dict[str, torch.Tensor]], scale: float = 1.0, use_cache: bool = True
    ) -> dict[str, Any]:
        y = torch.tanh(x * scale)
        if not use_cache:
            return {"y": y}
        return {"y": y + cache[0]["key"] * cache[1]["key"], "cache": [{"key": part["key"] + y} for part in cache]}


class Refuses(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 2:
            raise ValueError("two rows are not enough")
        return torch.tanh(x)


def make(name: str) -> nn.Module:
    module: nn.Module = globals()[name]()
    return module.eval()


def model_run(name: str, folder: Path, signature: Signature = ROWS, spec: ParitySpec = FEW) -> ModelRun:
    return ModelRun(Source(function=f"{__name__}:make", argument=name), signature, folder / name, spec)


@BACKENDS
def test_rows_that_look_at_each_other_are_seen_and_judged_as_whole_calls(backend: str, tmp_path: Path) -> None:
    run = model_run("Together", tmp_path)
    report = run.judge(right(run, backend))
    assert not run.reference.own_rows
    assert any("look at each other" in remark for remark in run.reference.remarks)
    assert report.status == "pass", report.reasons
    assert {check.status for check in report.checks if check.level == "invariance"} == {"reported"}


def test_rows_of_their_own_are_seen_as_such(tmp_path: Path) -> None:
    run = model_run("Normed", tmp_path, WIDE)
    assert run.reference.own_rows
    assert run.reference.remarks == ()


def test_a_random_model_is_refused_with_operator_and_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"random .*bernoulli.* at test_unusual.py:\d+: return nn.functional.dropout"):
        model_run("Random", tmp_path)


@BACKENDS
def test_a_model_that_writes_into_its_input_is_judged_on_copies(backend: str, tmp_path: Path) -> None:
    run = model_run("Writes", tmp_path)
    assert any(
        "writes into its input 'x' (aten.mul_" in remark and "x.mul_(2)" in remark for remark in run.reference.remarks
    )
    report = run.judge(right(run, backend))
    assert report.status == "pass", report.reasons


def test_gradients_inside_forward_are_taken(tmp_path: Path) -> None:
    run = model_run("Forces", tmp_path)
    report = run.judge(run.build("eager", tmp_path / "eager"))
    assert report.status == "pass", report.reasons


@BACKENDS
def test_scalars_and_a_batch_that_stands_twice_are_judged(backend: str, tmp_path: Path) -> None:
    signature = replace(ROWS, inputs=(*ROWS.inputs, TensorSpec("scale", "float32", ())))
    run = model_run("Scalars", tmp_path, signature)
    assert [spec.shape for spec in run.signature.outputs] == [(), ("batch", "batch"), ("batch", 4)]
    report = run.judge(right(run, backend))
    assert report.status == "pass", report.reasons


@BACKENDS
def test_nested_inputs_and_constants_are_judged_under_their_paths(backend: str, tmp_path: Path) -> None:
    parts = tuple(TensorSpec(f"cache.{number}.key", "float32", ("batch", 4)) for number in (1, 0))
    run = model_run("Cached", tmp_path, replace(ROWS, inputs=(*parts, *ROWS.inputs), constants={"scale": 0.5}))
    assert run.signature.output_names == ("y", "cache.0.key_output", "cache.1.key_output")
    artifact = right(run, backend)
    report = run.judge(artifact)
    assert report.status == "pass", report.reasons
    if backend == "onnx":
        graph = onnx.load(str(artifact / "model.onnx")).graph
        assert [value.name for value in graph.input] == ["cache.1.key", "cache.0.key", "x"]


def test_bfloat16_is_a_dtype_like_others(tmp_path: Path) -> None:
    signature = replace(ROWS, inputs=(TensorSpec("x", "bfloat16", ("batch", 4)),))
    run = model_run("Half", tmp_path, signature)
    for backend in ("exported", "torchscript"):
        report = run.judge(run.build(backend, tmp_path / backend))
        assert report.status == "pass", report.reasons


def test_what_the_model_itself_refuses_is_left_out_and_said(tmp_path: Path) -> None:
    run = model_run("Refuses", tmp_path)
    assert "two rows are not enough" in run.reference.left_out["batch=2"]
    assert not any(case.sizes["batch"] == 2 for case in run.reference.cases)


def test_a_failing_case_is_judged_again_by_equivalents_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squares of huge values overflow where an exporter forms them; eager's deviation accumulates in float64."""
    run = model_run("Together", tmp_path)
    artifact = right(run, "onnx")
    again = run.judge(artifact)
    assert again.status == "pass", again.reasons
    assert again.spreads
    monkeypatch.setattr(ParityRun, "_again", lambda self, report, *_: report)
    assert run.judge(artifact).status == "fail"


def test_a_fault_is_not_explained_by_equivalents(tmp_path: Path) -> None:
    """Every value off by a few dozen roundings: equivalents are asked, and none is so far off."""
    run = model_run("Normed", tmp_path, WIDE)
    report = run.judge(off_by(4e-6, right(run, "onnx")))
    assert "error" in report.failed_levels
    assert report.spreads
    assert report.worst is not None
    assert abs(float(report.worst.got) - float(report.worst.expected)) > 3e-6
    assert "; for x = [" in report.worst.text


@pytest.mark.slow
def test_what_cannot_be_traced_as_declared_is_traced_at_the_sizes_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's tanh is a rounding or two worse than PyTorch's: right, and only equivalents can say so."""
    series = Signature(
        inputs=(TensorSpec("x", "float32", ("batch", "length", 4)),),
        ranges={"batch": SizeRange(max=300), "length": SizeRange(min=2, max=9)},
    )
    run = model_run("Recurrent", tmp_path, series)
    assert run.traced.failure
    artifact = off_by(7e-8, right(run, "onnx"))
    with monkeypatch.context() as without:
        without.setattr("bench.parity.spread.traced", lambda *_: None)
        blind = run.judge(artifact)
    seen = run.judge(artifact)
    assert min(map(largest_unit, seen.spreads)) > 2 * max(map(largest_unit, blind.spreads))
    assert seen.status == "pass", seen.reasons
    assert seen.worst is None
    assert blind.status == "fail"
    assert "error" in run.judge(off_by(4e-6, artifact)).failed_levels


@pytest.mark.slow
def test_how_near_to_overflow_a_value_on_the_way_comes_is_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = replace(ROWS, inputs=(TensorSpec("x", "float32", ("batch", 6, 16)),))
    run = model_run("Attends", tmp_path, seen)
    artifact = right(run, "onnx")
    report = run.judge(artifact)
    assert report.status == "pass", report.reasons
    assert "near overflow" in {spread.case for spread in report.spreads}
    monkeypatch.setattr(Cramped, "_HEADROOM", 1.0)
    assert "structure" in run.judge(artifact).failed_levels


def off_by(error: float, artifact: Path) -> Path:
    """The artifact with a number added to every value of its first output."""
    path = artifact / "model.onnx"
    model = onnx.load(str(path))
    name, before = model.graph.output[0].name, f"before_{error}"
    last = next(node for node in model.graph.node if name in node.output)
    last.output[list(last.output).index(name)] = before
    model.graph.initializer.append(numpy_helper.from_array(np.array(error, np.float32), f"off_{error}"))
    model.graph.node.append(onnx.helper.make_node("Add", [before, f"off_{error}"], [name]))
    onnx.save(model, str(path))
    vouch(artifact)
    return artifact


def largest_unit(spread: CaseSpread) -> float:
    return spread.largest_unit


def test_ids_and_masks_are_never_changed_and_floats_stay_in_their_bounds() -> None:
    signature = Signature(
        inputs=(
            TensorSpec("x", "float32", ("batch", 4), low=0.5, high=2.0),
            TensorSpec("ids", "int64", ("batch", "length"), high=99),
            TensorSpec("mask", "int64", ("batch", "length")),
        ),
        ranges={"batch": SizeRange(min=6, max=60), "length": SizeRange(min=4, max=20, multiple=4)},
    )
    pool = Pool(signature=signature, samples={}, seed=0)
    for case in plan(pool, ParitySpec(rows_count=64)):
        assert all(size in signature.ranges[name] for name, size in case.sizes.items()), case
        inputs = pool.inputs(case)
        mask = inputs["mask"]
        assert (mask[:, 0] == 1).all()
        assert (np.diff(mask) <= 0).all()
        assert case.change is None or len(np.unique(inputs["ids"])) > 1
        if case.change in {**VALUES, **EXTREMES}:
            assert inputs["x"].min() >= 0.5
            assert inputs["x"].max() <= 2.0
