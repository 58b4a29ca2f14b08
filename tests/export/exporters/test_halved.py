"""A program in half precision holds its weights and computes in it, but for what that cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim, ExportedProgram, export

from bench.parity.contents.folding import folded_norms
from export.artifact import open_artifact
from export.build import Source
from export.errors import UserError
from export.exporters.folded import fold_norms
from export.exporters.halved import functional, halve
from export.exporters.narrowing import KEPT, KEPT_WEIGHTS, RANGES, WEIGHTS, halved_program, histogram
from export.program import quiet
from export.signature import Signature, SizeRange, TensorSpec
from export.taps.ranges import RangeScan
from export.taps.trace import Trace
from tests.model_run import ModelRun


class Parts(nn.Module):
    """``(batch, 3, 8, 8)`` to ``(batch, 4)``: a norm to fold, a layer of steps, a write in place, positions."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8)
        self.linear, self.scale, self.steps = nn.Linear(8, 4), nn.LayerNorm(4), nn.LSTM(4, 4, batch_first=True)
        nn.init.normal_(self.norm.bias)
        self.norm.running_mean.normal_()  # type: ignore[union-attr]
        self.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        y = self.scale(self.linear(y)) + torch.arange(4.0, device=x.device) * 0.5
        steps, _ = self.steps(y[:, None])
        y[:, 0] = 1
        return torch.softmax(steps[:, 0] + y, -1)


def traced(module: nn.Module) -> ExportedProgram:
    with quiet():
        return functional(export(module, (torch.randn(2, 3, 8, 8),), dynamic_shapes={"x": {0: Dim("batch", max=64)}}))


def reopened(program: ExportedProgram, folder: Path) -> ExportedProgram:
    torch.export.save(program, folder / "program.pt2")
    return torch.export.load(folder / "program.pt2")


@pytest.mark.parametrize(("half", "off"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_it_computes_the_model_at_every_size_and_answers_in_float32(
    half: torch.dtype, off: float, tmp_path: Path
) -> None:
    module, x = Parts().eval(), torch.randn(5, 3, 8, 8)
    program = traced(module)
    halved = halve(program, half, ())
    answer = reopened(program, tmp_path).module()(x)
    assert answer.dtype == torch.float32
    assert 0 < (answer - module(x)).abs().max() < off
    assert {tensor.dtype for tensor in program.state_dict.values() if tensor.is_floating_point()} == {half}
    assert (halved.kept, halved.kept_weights) == ((), ())


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_is_folded_before_weights_are_rounded(bias: bool) -> None:
    module, x = Parts(bias=bias).eval(), torch.randn(5, 3, 8, 8)
    program = traced(module)
    assert "batch_norm" in str(program.graph)
    fold_norms(program)
    assert "batch_norm" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), module(x))


class Grouped(nn.Module):
    """``(batch, 8, 4, 4)`` to ``(batch, 8, 6, 6)``: a transposed convolution in groups, and a norm."""

    def __init__(self, groups_count: int) -> None:
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(8, 8, 3, groups=groups_count), nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.up(x))
        return y


@pytest.mark.parametrize("groups_count", [1, 2, 8])
def test_a_transposed_convolution_is_folded_where_it_has_one_group(groups_count: int) -> None:
    module, x = Grouped(groups_count).eval(), torch.randn(2, 8, 4, 4)
    raw = export(module, (x,))
    fold_norms(program := functional(raw))
    assert ("batch_norm" in str(program.graph)) == (groups_count != 1)
    torch.testing.assert_close(program.module()(x), module(x))
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    kernel, bias = (torch.from_numpy(fold.value).float() for fold in folded_norms(raw, weights))
    again = nn.functional.conv_transpose2d(x, kernel, bias, groups=groups_count)
    torch.testing.assert_close(again, module(x))


def test_a_norm_whose_statistics_no_checkpoint_holds_is_left() -> None:
    module, x = Parts().eval(), torch.randn(2, 3, 8, 8)
    mean = module.norm.running_mean
    del module.norm._buffers["running_mean"]
    module.norm.register_buffer("running_mean", mean, persistent=False)
    program = traced(module)
    fold_norms(program)
    assert "batch_norm" in str(program.graph)
    torch.testing.assert_close(program.module()(x), module(x))


def test_the_program_that_is_rewritten_shares_no_constants_with_the_first() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.tensor([0.1, 0.2])

    program = export(Constant(), (torch.ones(3, 2),))
    halved_program(program, torch.float16, ())
    assert {value.dtype for value in program.constants.values()} == {torch.float32}


def test_positions_are_counted_before_they_are_rounded() -> None:
    """In float16 there is no 2049."""

    class Positions(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + (torch.arange(x.shape[1]) % 2)

    x = torch.zeros(2, 4100)
    program = functional(export(Positions(), (x,)))
    halve(program, torch.float16, ())
    assert torch.equal(program.module()(x), Positions()(x))


class Divided(nn.Module):
    """``(rows, columns)`` to the same, by a number that float16 cannot hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quotient: torch.Tensor = torch.div(x + 1, x * 1e-7)
        return quotient


class Powers(nn.Module):
    """``(rows, columns)`` to the same: a division by a number, which cannot vanish, or a power; small beside large."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.abs()
        return torch.pow(size, self.number) if self.number < 0 else size / self.number


class Large(nn.Module):
    """``(batch, 4)`` to the same: between its layers stands what float16 cannot hold, and then what it can."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        nn.init.constant_(self.up.weight, 3e4)
        nn.init.constant_(self.down.weight, 1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(torch.tanh(self.down(self.up(x * x + 1))))
        return y


def large(argument: str) -> nn.Module:
    torch.manual_seed(0)
    return Large().eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ModelRun:
    signature = Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(max=64)})
    source = Source(function="tests.export.exporters.test_halved:large", argument="")
    return ModelRun(source, signature, tmp_path_factory.mktemp("large"))


def test_what_overflows_on_real_rows_stays_in_float32_and_is_named(run: ModelRun, tmp_path: Path) -> None:
    save_file({"x": torch.randn(64, 4)}, tmp_path / "rows.safetensors")
    artifact = open_artifact(run.build("onnx-fp16", tmp_path / "a", rows=tmp_path / "rows.safetensors"))
    assert artifact.precision == "float16+float32 from float32"
    assert "in up: linear reaches" in artifact.facts[KEPT]
    assert "in down" in artifact.facts[KEPT]
    assert artifact.facts[KEPT_WEIGHTS] == "up.weight, up.bias, down.weight, down.bias"
    assert artifact.facts[RANGES] == "of weights and values, on 64 rows of the training data"
    assert artifact.facts[WEIGHTS] == "float32 40, float16 21"
    assert all(check.status != "fail" for check in run.judge(tmp_path / "a").checks)


def test_without_data_it_says_so_and_what_overflows_fails(run: ModelRun, tmp_path: Path) -> None:
    """The twin."""
    artifact = open_artifact(run.build("onnx-fp16", tmp_path / "a"))
    assert "the recipe has no data" in artifact.facts[RANGES]
    assert artifact.facts[KEPT_WEIGHTS] == "down.weight, down.bias"  # which needs no data
    report = run.judge(tmp_path / "a")
    assert report.status == "fail"  # though ONNX Runtime, which computes it in float32 here, does not show it
    assert any("linear in up" in reason and "past what float16 holds" in reason for reason in report.reasons)


def test_small_values_beside_large_ones_are_no_reason_and_dividing_by_them_is() -> None:
    def outside(module: nn.Module, x: torch.Tensor) -> set[str]:
        trace = Trace(functional(export(module, (x,))))
        trace.bind([x])
        scan = RangeScan(trace)
        scan.add(trace.narrow())
        return {trace.operator(name).split(".")[1] for name in scan.outside()}

    assert outside(nn.GELU(), torch.randn(64, 64) * 3) == set()
    assert outside(Divided(), torch.rand(64, 64) + 1) >= {"mul", "div"}
    mixed = torch.cat([torch.full((32, 64), 3.0), torch.full((32, 64), 1e-6)])
    assert outside(Powers(8.0), mixed) == set()
    assert outside(Powers(-0.5), mixed) == {"abs"}


def test_a_model_of_which_nothing_can_be_narrowed_is_refused(tmp_path: Path) -> None:
    signature = Signature(
        inputs=(TensorSpec("x", "int64", ("batch", 4), low=0, high=9),), ranges={"batch": SizeRange(max=64)}
    )
    source = Source(function="tests.export.exporters.test_halved:integers", argument="")
    run = ModelRun(source, signature, tmp_path / "run")
    with pytest.raises(UserError, match="nothing in the model can be narrowed to float16: no operator reads float32"):
        run.build("onnx-fp16", tmp_path / "a")


class Integers(nn.Module):
    """``(batch, 4)`` integers to the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class AllLarge(nn.Module):
    """``(batch, 4)`` to the same: float16 holds what goes in, and no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 1e6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * self.weight


def all_large(argument: str) -> nn.Module:
    return AllLarge()


def test_a_model_all_of_whose_weights_must_stay_is_refused_with_the_reason(run: ModelRun, tmp_path: Path) -> None:
    source = Source(function="tests.export.exporters.test_halved:all_large", argument="")
    message = r"all weights must stay in float32, so that float16 saves nothing: mul.*reaches 1e\+06"
    with pytest.raises(UserError, match=message):
        run.build("onnx-fp16", tmp_path / "a", source=source)


def integers(argument: str) -> nn.Module:
    return Integers()


def test_a_histogram_begins_with_the_most() -> None:
    assert histogram({"float32": 10, "float16": 1234}) == "float16 1,234, float32 10"


class Masked(nn.Module):
    """``(batch, 4)`` to the same: a mask of float32's smallest number, as attention has it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = (1.0 - mask) * torch.finfo(torch.float32).min
        return torch.softmax(self.out(x) + hidden, -1)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_mask_of_the_smallest_number_stays_in_float32(half: torch.dtype) -> None:
    """In half precision it would be -Inf, and what is masked everywhere no number."""
    module, x, mask = Masked().eval(), torch.randn(2, 4), torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    program = functional(export(module, (x, mask)))
    trace = Trace(program)
    trace.bind([x, mask])
    scan = RangeScan(trace, half)
    scan.add(trace.narrow())
    halve(program, half, scan.outside())
    torch.testing.assert_close(program.module()(x, mask), module(x, mask), rtol=0.02, atol=0.005)
    halve(unlooked := functional(export(module, (x, mask))), half, ())
    assert unlooked.module()(x, mask).isnan().any()  # the twin
