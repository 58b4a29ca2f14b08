"""Models with a side: whole calls, random numbers, inputs written to, gradients inside, scalars, bfloat16."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bench.parity.oracle import Oracle
from bench.parity.remarks import ROWS_TOGETHER, effects
from bench.parity.spec import ParitySpec
from bench.parity.store import save_case
from bench.verdict.servable import not_servable
from export import registry
from export.arrays import to_numpy
from export.artifact import open_artifact
from export.backend import LoadOptions
from export.build import Source
from export.errors import UserError
from export.signature import Signature, SizeRange, TensorSpec
from tests.bench.conftest import right
from tests.conftest import environ
from tests.model_run import ModelRun

BACKENDS = pytest.mark.parametrize(
    "backend",
    [pytest.param("exported", marks=pytest.mark.slow), pytest.param("torchscript", marks=pytest.mark.slow), "onnx"],
)
FEW = ParitySpec(rows_count=256)
SOURCE = TensorSpec("source", "float32", (64,))
ROWS = Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(min=2, max=300)})


class Branch(nn.Module):
    """A side that the values choose."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen: torch.Tensor = torch.cond(x.square().mean() < 1e6, torch.tanh, torch.sin, (x,))
        return chosen


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


class CastInside(nn.Module):
    """bfloat16 at its edges alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(2 * x.float()).bfloat16()


class Scattered(nn.Module):
    """Compiled for rows and a length of 1 once for each, and once for both."""

    def forward(self, x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x).scatter(1, order, x.abs() + 1)


class Takes(nn.Module):
    """Every row takes its values from a common source, where the row before it has ended."""

    def forward(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.masked_scatter(x > 1, source))


class Cast(nn.Module):
    """A block in bfloat16 by autocast, float32 outside."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.out = nn.Linear(4, 16), nn.Linear(16, 3)
        with torch.no_grad():
            self.out.weight[0, 0] *= factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.tanh(self.out(torch.relu(self.hidden(x))).float())


class CastAltered(Cast):
    def __init__(self) -> None:
        super().__init__(1.02)


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


def test_a_model_with_a_branch_answers_after_it_was_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compiles a branch under watch is not what compiles it for a call; the twin leaves it compiled."""
    signature = Signature(
        inputs=(TensorSpec("x", "float32", ("batch", 4)),),
        ranges={"batch": SizeRange()},
        outputs=(TensorSpec("output", "float32", ("batch", 4)),),
        output_names=("output",),
    )
    inputs = signature.example({"batch": 3}, seed=0)
    oracle = Oracle(Branch(), signature, "cpu", None)
    assert effects(oracle, inputs) == []
    assert np.allclose(oracle.answer(inputs)[0]["output"], np.tanh(inputs["x"]), atol=1e-6)
    monkeypatch.setattr("torch.compiler.reset", lambda: None)
    effects(oracle, inputs)
    with pytest.raises(Exception, match="non-Tensor"):
        oracle.answer(inputs)
    monkeypatch.undo()
    torch.compiler.reset()


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
    run = model_run("Cast", tmp_path)
    assert run.reference.own_rows
    assert run.reference.remarks == ()


def test_rows_that_are_declared_to_be_one_whole_are_taken_so(tmp_path: Path) -> None:
    """What shows in large calls alone, say, nobody finds in small ones."""
    run = model_run("Cast", tmp_path, replace(ROWS, rows_together=True))
    assert not run.reference.own_rows
    assert run.reference.remarks == (ROWS_TOGETHER,)
    report = run.judge(right(run, "exported"))
    assert {check.status for check in report.checks if check.level == "invariance"} == {"reported"}


def test_a_random_model_is_refused_with_operator_and_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"random .*bernoulli.* at test_effects.py:\d+: return nn.functional.dropout"):
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


def test_a_common_source_makes_rows_look_at_each_other_in_the_smallest_batches_too(tmp_path: Path) -> None:
    """The first rows of a call never change: what they take from the source is the same in any batch."""
    few = {"batch": SizeRange(max=8)}
    run = model_run("Takes", tmp_path, replace(ROWS, inputs=(*ROWS.inputs, SOURCE), ranges=few))
    assert not run.reference.own_rows
    report = run.judge(right(run, "exported"))
    assert report.status == "pass", report.reasons


def test_what_runs_under_autocast_is_held_to_the_same_function_with_its_casts_widened(tmp_path: Path) -> None:
    run = model_run("Cast", tmp_path)
    assert run.reference.float64_by == "program"
    for backend in ("exported", "torchscript"):
        report = run.judge(right(run, backend))
        assert report.status == "pass", report.reasons
    (weights,) = [check for check in report.checks if check.level == "weights"]
    assert "4 folded, recomputed" in weights.message  # cast ahead
    altered = Source(function=f"{__name__}:make", argument="CastAltered")
    report = run.judge(run.build("torchscript", tmp_path / "altered", source=altered))
    assert (
        "out.weight differs after folding in 1 of 48 values"
        in next(check for check in report.checks if check.level == "weights").message
    )


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


@pytest.mark.parametrize("backend", ["onnx", pytest.param("openvino", marks=pytest.mark.extra)])
def test_bfloat16_is_taken_and_given_in_place(backend: str, tmp_path: Path) -> None:
    """Neither runtime's own NumPy interface knows the dtype; ONNX Runtime's kernels are few, the casts are."""
    if backend == "openvino":
        pytest.importorskip("openvino", reason="extra: pip install openvino")
    signature = replace(ROWS, inputs=(TensorSpec("x", "bfloat16", ("batch", 4)),))
    run = model_run("CastInside", tmp_path, signature)
    folder = run.build(backend, tmp_path / backend)
    report = run.judge(folder)
    assert report.status == "pass", report.reasons
    runner = registry.load(folder, LoadOptions())
    x = torch.randn(3, 4).bfloat16()
    answer = runner({"x": x})["output"]
    assert isinstance(answer, torch.Tensor)
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer, CastInside()(x))
    as_numpy = runner({"x": to_numpy(x)})["output"]
    assert (as_numpy.dtype, np.array_equal(as_numpy, to_numpy(answer))) == (np.dtype("bfloat16"), True)
    bound = runner.bind({"x": x})
    x += 1
    torch.testing.assert_close(torch.as_tensor(bound.run()[0]), CastInside()(x))
    (reason,) = not_servable(open_artifact(folder).signature)
    assert reason == "x, output in bfloat16, which bundles and servers do not take: hand over float32, and cast inside"


def refuse(*_: object) -> None:
    raise UserError("it is compiled under torch.compile here")


@pytest.mark.slow
@pytest.mark.parametrize(("most_ones", "status"), [(4, "pass"), (0, "fail")])
def test_what_is_compiled_for_several_sizes_of_one_at_once_is_in_the_cache(
    most_ones: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.exporters.guarded._MOST_ONES", most_ones)
    monkeypatch.setattr("export.exporters.standalone.build", refuse)
    shape = ("batch", "length")
    signature = Signature(
        inputs=(TensorSpec("x", "float32", shape), TensorSpec("order", "int64", shape, high="length - 1")),
        ranges={"batch": SizeRange(max=300), "length": SizeRange(max=32)},
    )
    run = model_run("Scattered", tmp_path, signature)
    assert run.judge(run.build("compile", tmp_path / "compile")).status == status


def test_cases_in_bfloat16_are_read_by_a_process_that_has_loaded_no_onnx(tmp_path: Path) -> None:
    save_case(tmp_path, 0, {"x": torch.ones(2, dtype=torch.bfloat16)})
    read = (
        "import sys; from pathlib import Path; from bench.parity.store import load_case; "
        "print(load_case(Path(sys.argv[1]), 0, ['x'])['x'].dtype, 'onnx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", read, tmp_path], check=False, capture_output=True, text=True, env=environ()
    )
    assert done.stdout.split() == ["bfloat16", "False"], done.stderr


def test_what_the_model_itself_refuses_is_left_out_and_said(tmp_path: Path) -> None:
    run = model_run("Refuses", tmp_path)
    assert "two rows are not enough" in run.reference.left_out["batch=2"]
    assert not any(case.sizes["batch"] == 2 for case in run.reference.cases)
