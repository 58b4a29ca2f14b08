"""A program that computes nearly what the model does is no truth, and what is made from it does not pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.parity.spec import ParitySpec
from export.build import Source
from export.signature import Signature, SizeRange, TensorSpec
from tests.model_run import ModelRun

SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(max=64)})


class TracedOtherwise(nn.Module):
    """While it is traced its answers are larger by a factor; strictly they would not be."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(x)
        return y * self.factor if torch.compiler.is_exporting() else y


class CastsAndMakesTables(nn.Module):
    """Casts to what its input is, computes a table in float32, casts and widens: everything that rounds inside."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = torch.arange(1, 5, dtype=torch.float32, device=x.device).sin()
        norm = x.to(torch.float32).square().mean(-1, keepdim=True).add(1e-6).rsqrt()
        y: torch.Tensor = self.linear((x * norm).to(x.dtype) * table)
        return y


class AsksForItsDtype(nn.Module):
    """In float64 it is another function: the smallest step of the dtype is another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(torch.relu(x) + torch.finfo(x.dtype).eps)


class InItsOwnDtypeAlone(TracedOtherwise):
    """Refuses to run in float64."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            raise TypeError("float32 alone")
        return super().forward(x)


class AnswersInHalfPrecision(TracedOtherwise):
    """Sixty-four roundings of what it answers in are half of the largest value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).bfloat16()


class BesidesAMask(TracedOtherwise):
    """A column beside the others is larger than they by far."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([super().forward(x), torch.full_like(x[:, :1], -1e9)], 1)


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "":
        return CastsAndMakesTables().eval()
    if kind == "dtype":
        return AsksForItsDtype().eval()
    if kind[0] == "!":
        return InItsOwnDtypeAlone(float(kind[1:])).eval()
    if kind[0] == "h":
        return AnswersInHalfPrecision(float(kind[1:])).eval()
    return (BesidesAMask(float(kind[1:])) if kind[0] == "+" else TracedOtherwise(float(kind))).eval()


def run_of(factor: str, folder: Path) -> ModelRun:
    return ModelRun(Source(function=f"{__name__}:make", argument=factor), SIGNATURE, folder, ParitySpec(rows_count=256))


@pytest.mark.parametrize("factor", ["1.00002", pytest.param("1.0001", marks=pytest.mark.slow), "1.003", "+1.003"])
def test_what_is_made_from_a_wrong_trace_is_held_to_the_model(factor: str, tmp_path: Path) -> None:
    run = run_of(factor, tmp_path / "run")
    assert run.reference.float64_by == "module"
    assert any("computes something else than the model" in remark for remark in run.reference.remarks)
    assert run.judge(run.build("exported", tmp_path / "exported")).status == "fail"
    assert run.judge(run.build("eager", tmp_path / "eager")).status == "pass"


def test_with_every_program_taken_for_the_model_the_wrong_trace_is_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin."""
    monkeypatch.setattr("bench.parity.oracle.Oracle._is_the_model", lambda *_: True)
    run = run_of("1.00002", tmp_path / "run")
    assert run.reference.float64_by == "program"
    assert run.judge(run.build("exported", tmp_path / "exported")).status == "pass"


@pytest.mark.parametrize("kind", ["!1.00002", "h1.3"], ids=["refuses float64", "answers in half precision"])
def test_a_wrong_trace_is_no_truth_either_where_the_module_does_not_run_in_float64(kind: str, tmp_path: Path) -> None:
    run = run_of(kind, tmp_path / "run")
    assert run.reference.float64_by is None
    assert "computes something else than the model: its answer" in (run.reference.program_differs or "")
    assert run.judge(run.build("exported", tmp_path / "exported")).status == "no-reference"


@pytest.mark.parametrize(
    "kind",
    ["", "dtype", "!1", "h1"],
    ids=["rounds inside in every way", "asks for its dtype", "refuses float64", "answers in half precision"],
)
def test_a_right_program_stays_the_truth_where_the_module_is_another_in_float64(kind: str, tmp_path: Path) -> None:
    run = run_of(kind, tmp_path / "run")
    assert (run.reference.float64_by, run.reference.remarks) == ("program", ())
    assert run.judge(run.build("exported", tmp_path / "exported")).status == "pass"
