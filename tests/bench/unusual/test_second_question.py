"""The second question: what equivalents of the model say of a call on which an artifact fails."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bench.parity.levels.undetermined import CaseSpread
from bench.parity.oracle import Oracle
from bench.parity.perturbed import Cramped, Elementary, InSequence, decomposed
from bench.parity.run import ParityRun
from bench.parity.spec import ParitySpec
from bench.parity.variants import traced
from export.build import Source
from export.signature import Signature, SizeRange, TensorSpec
from tests.bench.conftest import right
from tests.model_run import ModelRun, vouch

FEW, LEAST = ParitySpec(rows_count=256), ParitySpec(rows_count=32)
ROWS = Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(min=2, max=300)})
WIDE = Signature(inputs=(TensorSpec("x", "float32", ("batch", 64)),), ranges={"batch": SizeRange(max=300)})


class Together(nn.Module):
    """Normalises over the rows of the call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh((x - x.mean(0)) / (x.std(0) + 1))


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
    """A loop over a length, which ``torch.export`` cannot leave open: there is no traced program."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros_like(self.first(x[:, 0]))
        for step in range(x.shape[1]):
            state = torch.tanh(self.first(x[:, step]) + self.second(state))
        return state


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


class Image(nn.Module):
    """Where an image is of one colour, what a sum over it is off by is off everywhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1),
            nn.GroupNorm(2, 4),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.layers(x)
        return normed


class Writes(nn.Module):
    """A recurrent layer, whose open length has no decomposition, and a decoder, which looks at its mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reads = nn.GRU(4, 4, batch_first=True)
        self.writes = nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8, batch_first=True), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        written: torch.Tensor = self.writes(x, self.reads(x)[0], tgt_mask=causal)
        return written


def make(name: str) -> nn.Module:
    module: nn.Module = globals()[name]()
    return module.eval()


def model_run(name: str, folder: Path, signature: Signature = ROWS, spec: ParitySpec = FEW) -> ModelRun:
    return ModelRun(Source(function=f"{__name__}:make", argument=name), signature, folder / name, spec)


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
    assert seen.spreads[0].case == blind.spreads[0].case
    assert largest_unit(seen.spreads[0]) > 2 * largest_unit(blind.spreads[0])
    assert seen.status == "pass", seen.reasons
    assert seen.worst is None
    assert blind.status == "fail"
    assert "error" in run.judge(off_by(4e-6, artifact)).failed_levels


def test_a_call_is_traced_with_its_layers_open_as_the_program_is(monkeypatch: pytest.MonkeyPatch) -> None:
    series = Signature(
        inputs=(TensorSpec("x", "float32", ("batch", "length", 4)),),
        output_names=("y",),
        outputs=(TensorSpec("y", "float32", ("batch", "length", 4)),),
        ranges={"batch": SizeRange(max=300), "length": SizeRange(min=2, max=9)},
    )
    oracle, inputs = Oracle(make("Writes"), series, "cpu", None), series.example({"batch": 3, "length": 5}, 0)
    program = traced(oracle, inputs)
    assert program is not None
    [answer] = decomposed(program).module()(torch.from_numpy(inputs["x"]))
    np.testing.assert_allclose(answer.detach(), oracle.eager(inputs)["y"], atol=1e-5)
    monkeypatch.setattr("bench.parity.variants.open_layers", nullcontext)
    assert traced(oracle, inputs) is None


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


@pytest.mark.slow
def test_sums_in_another_order_are_as_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime sums in lanes, PyTorch by halves: on equal pixels their errors are an order of magnitude apart."""
    images = TensorSpec("x", "float32", ("batch", 1, 48, 48))
    run = model_run("Image", tmp_path, replace(ROWS, inputs=(images,), ranges={"batch": SizeRange(max=8)}), LEAST)
    artifact = right(run, "onnx")
    report = run.judge(artifact)
    assert report.status == "pass", report.reasons
    assert {"all equal", "ones"} & {spread.case for spread in report.spreads}
    with monkeypatch.context() as without:
        without.setattr(InSequence, "_sum", Elementary._sum)
        assert "extremes" in run.judge(artifact).failed_levels
    assert "error" in run.judge(off_by(4e-5, artifact)).failed_levels


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
