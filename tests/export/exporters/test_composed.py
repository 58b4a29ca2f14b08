"""Operators that PyTorch's ONNX exporter cannot translate reach ONNX composed of others, and answer as the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from bench.parity.spec import ParitySpec
from export.artifact import read_artifact
from export.build import Source
from export.exporters.composed import COMPOSITIONS, composed
from export.roads import NoRoadError
from export.signature import Signature, SizeRange, TensorSpec
from tests.model_run import ModelRun

fn = nn.functional
CALLS: dict[str, Callable[[Tensor], object]] = {
    "distances": lambda x: torch.cdist(x, x.flip(2) + 1),
    "distances, city block": lambda x: torch.cdist(x, x + 1, p=1),
    "distances, cubed": lambda x: torch.cdist(x, x + 1, p=3),
    "distances, largest": lambda x: torch.cdist(x, x + 1, p=float("inf")),
    "distances, differing": lambda x: torch.cdist(x, x.round(), p=0),
    "distances to many": lambda x: torch.cdist(x, x[:, :1] + torch.arange(40.0).reshape(1, 40, 1).to(x)),
    "magnitude": lambda x: torch.fft.rfft(x.abs() * 1e30, dim=2).abs(),
    "hypotenuse": lambda x: torch.hypot(x, x.flip(2) * 1e-3),
    "log of sigmoid": lambda x: fn.logsigmoid(8 * x),
    "log1p": lambda x: torch.log1p(x.abs() * 1e-4),
    "expm1": lambda x: torch.expm1(x * 1e-4),
    "angle": lambda x: torch.atan2(x, x.flip(2)),
    "copysign": lambda x: torch.copysign(x, x.flip(2)),
    "fmax": lambda x: torch.fmax(x, torch.where(x > 1, float("nan"), x.flip(2))),
    "fmin": lambda x: torch.fmin(x, torch.where(x > 1, float("nan"), x.flip(2))),
    "both extremes": lambda x: (*torch.aminmax(x), *torch.aminmax(x, dim=1)),
    "selected": lambda x: torch.masked_select(x, x > 0),
    "running maximum": lambda x: torch.cummax(x.round(), 1),
    "running minimum": lambda x: torch.cummin(x, 2),
    "running product": lambda x: torch.cumprod(x, 1),
    "median": lambda x: torch.median(x, 1),
    "median of all": torch.median,
    "third smallest": lambda x: torch.kthvalue(x, 3, 2),
    "randomised ReLU": fn.rrelu,
    "largest of a window": lambda x: fn.adaptive_max_pool1d(x, 4),
    "largest of all steps": lambda x: fn.adaptive_max_pool1d(x.transpose(1, 2), 1),
    "largest of a box": lambda x: fn.adaptive_max_pool2d(x.reshape(x.shape[0], -1, 2, 3), (2, 2), return_indices=True),
    "largest of a cuboid": lambda x: fn.adaptive_max_pool3d(x.reshape(x.shape[0], -1, 1, 2, 3), (1, 2, 1)),
    "mean of a cuboid": lambda x: fn.adaptive_avg_pool3d(x.reshape(x.shape[0], -1, 1, 2, 3), (1, 1, 2)),
    "attention of one head": lambda x: fn.scaled_dot_product_attention(
        x, x + 1, x, x.new_ones(x.shape[1], x.shape[1]).tril() > 0
    ),
}
SERIES = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", "steps", 6)),),
    ranges={"batch": SizeRange(max=8), "steps": SizeRange(min=4, max=60)},
)
SAMPLE = ("distances", "running product", "median", "largest of all steps", "attention of one head")
"""The representatives that every run of the tests takes all the way to ONNX Runtime."""


class Calls(nn.Module):
    """Some of the calls, each one or several outputs."""

    def __init__(self, names: str) -> None:
        super().__init__()
        self.names = names.split(";")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for name in self.names:
            result = CALLS[name](x)
            parts = result if isinstance(result, tuple) else (result,)
            outputs |= {f"{name} {number}": part for number, part in enumerate(parts)}
        return outputs


def make(names: str) -> nn.Module:
    return Calls(names).eval()


def of_operators(exported: torch.export.ExportedProgram) -> set[object]:
    return {node.target for node in exported.graph.nodes} & COMPOSITIONS.keys()


def test_a_composition_is_its_operator() -> None:
    """At other sizes than those that were traced."""
    names = ";".join(name for name in CALLS if not name.startswith(("distances", "attention")))
    sizes = {0: Dim("batch", max=8), 1: Dim("steps", min=4, max=20)}
    exported = torch.export.export(make(names), (torch.randn(3, 5, 6),), dynamic_shapes={"x": sizes})
    others = composed(exported)
    assert len(of_operators(exported)) > 15
    assert not of_operators(others)
    for steps in (4, 20):
        x = torch.randn(2, steps, 6)
        wanted, answers = make(names)(x), others.module()(x)
        for name, tensor in wanted.items():
            atol = 1e-6 * float(tensor.nan_to_num().abs().max())
            torch.testing.assert_close(answers[name], tensor, rtol=2e-6, atol=atol, equal_nan=True)


def sparing(x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.expm1(x)


OTHERWISE_WRITTEN: dict[str, tuple[Callable[..., object], tuple[Tensor, ...]]] = {
    "in place": (lambda x: x.clone().log1p_(), (torch.full((3,), 1e-8),)),
    "without gradients": (sparing, (torch.full((3,), 1e-8),)),
    "in a branch": (
        lambda x: torch.cond(x.sum() > 0, lambda x: torch.log1p(x) + 0, lambda x: 2 * x, (x,)),
        (torch.full((3,), 1e-8),),
    ),
    "with the sign of a constant": (lambda x: torch.copysign(x, -1.0), (torch.tensor([1.0, -2.0]),)),
    "of integers": (torch.copysign, (torch.tensor([1, 2]), torch.tensor([-1, 1]))),
    "of two dtypes": (torch.copysign, (torch.tensor([1, 2]), torch.tensor([-1.0, 1.0]))),
    "with all dimensions kept": (lambda x: torch.aminmax(x, keepdim=True), (torch.arange(6.0).reshape(1, 2, 3),)),
    "after what is no number": (lambda x: torch.cummax(x, 0), (torch.tensor([1.0, torch.nan, 2.0, torch.nan, 3.0]),)),
    "under a mask of keys": (
        lambda x: fn.scaled_dot_product_attention(x, x, x, torch.arange(5.0)), (torch.ones(2, 5, 4).cumsum(1),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE_WRITTEN)
def test_however_it_is_written_it_is_composed(name: str) -> None:
    function, inputs = OTHERWISE_WRITTEN[name]

    class Written(nn.Module):
        def forward(self, *tensors: Tensor) -> object:
            return function(*tensors)

    exported = torch.export.export(Written(), inputs)
    answer, wanted = composed(exported).module()(*inputs), function(*inputs)
    for got, right in zip(
        [*answer] if isinstance(answer, tuple) else [answer],
        [*wanted] if isinstance(wanted, tuple) else [wanted],
        strict=True,
    ):
        torch.testing.assert_close(got, right, rtol=2e-6, atol=0, equal_nan=True)
    left = {node.target for node in composed(exported).graph.nodes} & COMPOSITIONS.keys()
    assert {str(operator) for operator in left} <= {"aten.scaled_dot_product_attention.default"}


def test_a_program_without_such_operators_stays_as_it_is() -> None:
    plain = torch.export.export(nn.Tanh(), (torch.randn(2, 3),))
    assert composed(plain) is plain


@pytest.mark.parametrize(
    "names", [";".join(SAMPLE), *(pytest.param(name, marks=pytest.mark.slow) for name in CALLS if name not in SAMPLE)]
)
def test_they_reach_onnx_from_the_program_and_pass_parity(names: str, tmp_path: Path) -> None:
    source = Source(function=f"{__name__}:make", argument=names)
    run = ModelRun(source, SERIES, tmp_path / "run", ParitySpec(rows_count=64))
    folder = run.build("onnx", tmp_path / "onnx")
    assert read_artifact(folder).facts["road"] == "program"
    report = run.judge(folder)
    assert report.status == "pass", report.reasons


@pytest.mark.slow
def test_without_the_compositions_there_is_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(function=f"{__name__}:make", argument=";".join(SAMPLE))
    run = ModelRun(source, SERIES, tmp_path / "run", ParitySpec(rows_count=64))
    monkeypatch.setattr("export.exporters.composed.composed", lambda exported: exported)
    with pytest.raises(NoRoadError, match="not by program"):
        run.build("onnx", tmp_path / "onnx")
