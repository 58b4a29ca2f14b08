"""Every level of parity: what it must find, what it must let pass. Faults in artifacts are in tests/faults/."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.parity.answers import Answers
from bench.parity.behaviour import determinism, layouts, refusals
from bench.parity.calibrate import CalibrationJob, calibrate
from bench.parity.cases import Case, Pool, Values, plan
from bench.parity.check import LEVELS
from bench.parity.decisions import DecisionTally, clopper_pearson, explained_choices
from bench.parity.error import ErrorTally
from bench.parity.jobs import EAGER, FLOAT64, Outputs
from bench.parity.nulls import MOST, NullVariant, beyond, thresholds
from bench.parity.slope import SlopeTally
from bench.parity.spec import ParitySpec, Thresholds
from bench.parity.structure import StructureTally
from export import backend as backends
from export.artifact import RECORD, Artifact, open_artifact
from export.backend import LoadOptions, Runner, Witness
from export.build import Source
from export.errors import UserError
from export.program import FlatModule
from export.record import read, to_json, write
from export.signature import Signature, SizeRange, TensorSpec
from tests.faults import models as counting
from tests.models import SIGNATURES, make, rows, source
from tests.prover import Prover, vouch

SPEC = ParitySpec(call_limit_s=60.0)  # on a busy machine large sizes would be left out
LIMITS = Thresholds(max_rms_ratio=2.0, max_peak_ratio=4.0, max_slope_ulps=4.0)
ROWS = Case(group="rows", name="rows 0 to 2047", sizes={"batch": 2048})


@pytest.fixture(scope="module")
def provers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prover]:
    base = tmp_path_factory.mktemp("provers")
    known: dict[str, Prover] = {}

    def prover(model: str) -> Prover:
        if model not in known:
            known[model] = Prover(source(model), SIGNATURES[model], base / model, SPEC)
        return known[model]

    return prover


def right(prover: Prover, backend: str) -> Path:
    folder = prover.folder / backend
    return folder if folder.exists() else prover.build(backend, folder)


# Whole reports


@pytest.mark.parametrize("model", ["Mlp", "ConvNorm", "Nested", "Namesake", "Masked"])
@pytest.mark.parametrize("backend", ["eager", "torchscript", "exported", "onnx"])
def test_a_right_artifact_passes_every_level(model: str, backend: str, provers: Callable[[str], Prover]) -> None:
    prover = provers(model)
    report = prover.judge(right(prover, backend))
    assert (report.status, report.reasons) == ("pass", ())
    assert {check.level for check in report.checks} <= set(LEVELS)
    assert {"structure", "weights", "calls", "sizes", "refusals", "determinism", "execution"} <= {
        check.level for check in report.checks
    }
    for name, bounds in prover.signature.ranges.items():
        assert (report.proved[name].min, report.proved[name].max) == (bounds.min, bounds.max)


@pytest.mark.parametrize(
    ("backend", "told"),
    [("compile", "8 as they are; read from"), ("aotinductor", "2 as they are; 6 compiled into code, probed")],
)
def test_compiled_artifacts_show_their_weights(backend: str, told: str, provers: Callable[[str], Prover]) -> None:
    prover = provers("ConvNorm")
    report = prover.judge(right(prover, backend))
    assert report.status == "pass"
    (weights,) = [check for check in report.checks if check.level == "weights"]
    assert (weights.status, weights.words[: len(told)]) == ("pass", told)


def test_a_weight_compiled_into_code_is_probed(provers: Callable[[str], Prover], tmp_path: Path) -> None:
    """One bias of five is off by a hundred thousandth, and no file shows it: Inductor wrote it into its code."""
    folder = provers("ConvNorm").build("aotinductor", tmp_path / "off", _source("bias_slightly_off"))
    report = provers("ConvNorm").judge(folder)
    (weights,) = [check for check in report.checks if check.level == "weights"]
    assert (weights.status, weights.subject) == ("fail", "out.bias")


def bias_slightly_off(argument: str) -> nn.Module:
    module = make("ConvNorm")
    bias = module.get_parameter("out.bias")
    with torch.no_grad():
        bias[bias.abs().argmax()] *= 1 + 1e-5
    return module


@pytest.mark.parametrize(("backend", "told"), [("onnx", "folded, recomputed"), ("torchscript", "folded, recomputed")])
def test_a_folded_batch_norm_is_recomputed(backend: str, told: str, provers: Callable[[str], Prover]) -> None:
    prover = provers("ConvNorm")
    (weights,) = [check for check in prover.judge(right(prover, backend)).checks if check.level == "weights"]
    assert weights.status == "pass"
    assert told in weights.words


def test_without_the_check_a_wrong_artifact_would_pass(provers: Callable[[str], Prover], tmp_path: Path) -> None:
    """The twin of every fault: compared with its own answers, the artifact of another model is perfect."""
    prover = provers("Mlp")
    other = Prover(Source(function="tests.bench.test_parity:retrained", argument=""), SIGNATURES["Mlp"], tmp_path / "o")
    folder = right(other, "exported")
    assert prover.judge(folder).status == "fail"
    assert other.judge(folder).status == "pass"


def retrained(argument: str) -> nn.Module:
    torch.manual_seed(8)
    return type(make("Mlp"))().eval()


@pytest.mark.parametrize(
    ("change", "subject"), [("conv.weight", "conv.weight"), ("conv.bias", "conv.bias"), ("norm.weight", "norm.weight")]
)
def test_of_what_was_folded_together_the_one_that_differs_is_named(
    change: str, subject: str, provers: Callable[[str], Prover], tmp_path: Path
) -> None:
    prover = provers("ConvNorm")
    folder = prover.build("onnx", tmp_path / "onnx", Source(function="tests.bench.test_parity:scaled", argument=change))
    (weights,) = [check for check in prover.judge(folder).checks if check.level == "weights"]
    assert (weights.status, weights.subject) == ("fail", subject)
    assert "after folding" in weights.words


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
    prover = Prover(_source("millionth"), SIGNATURES["Pointwise"], tmp_path / "millionth")
    assert prover.judge(right(prover, "exported")).status == "pass"
    report = prover.judge(right(prover, "onnx"))
    assert report.status == "fail"
    assert "systematic" in report.failed_levels


def test_a_frozen_batch_fails_and_the_dimension_is_named(provers: Callable[[str], Prover], tmp_path: Path) -> None:
    prover = provers("Mlp")
    folder = tmp_path / "exported"
    shutil.copytree(right(prover, "exported"), folder)
    frozen = torch.export.export(FlatModule(make("Mlp"), prover.signature).eval(), (torch.zeros(8, 4),))
    torch.export.save(frozen, folder / "model.pt2")
    vouch(folder)
    report = prover.judge(folder)
    assert report.status == "fail"
    assert any(reason.startswith("refused rows 0 to 255: ") for reason in report.reasons)
    assert any("cases were refused" in reason for reason in report.reasons)
    assert report.proved == {}


def test_a_witness_of_a_fallback_fails(provers: Callable[[str], Prover]) -> None:
    prover = provers("Mlp")
    artifact = open_artifact(right(prover, "exported"))
    answered = Outputs(witness=Witness(device="cuda", fallback="3 nodes ran on the CPU"), refusals={})
    answers = prover.reference_folder / EAGER
    report = prover.compare(artifact, answered, answers, LoadOptions())
    assert (report.status, report.reasons, report.failed_levels) == (
        "fail",
        ("3 nodes ran on the CPU",),
        ("execution",),
    )
    good = replace(answered, witness=Witness(device="cuda"))
    assert prover.compare(artifact, good, answers, LoadOptions()).status == "pass"


# References


class OnlyFloat32(nn.Module):
    """Refuses float64, as custom operators do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise TypeError("this operator takes float32")
        return x * 2


class CastsInside(nn.Module):
    """Runs in float64, but not throughout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.out(x).float())


class CastsAndWidens(CastsInside):
    """Narrow in the middle, float64 again at the end: the answer looks like float64 and is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).to(x.dtype)


def casts_and_widens(argument: str) -> nn.Module:
    return CastsAndWidens().eval()


def only_float32(argument: str) -> nn.Module:
    return OnlyFloat32()


def casts_inside(argument: str) -> nn.Module:
    return CastsInside().eval()


def _source(function: str) -> Source:
    return Source(function=f"tests.bench.test_parity:{function}", argument="")


@pytest.mark.parametrize("casts", ["casts_inside", "casts_and_widens"])
def test_a_cast_inside_is_widened_in_the_traced_program(casts: str, tmp_path: Path) -> None:
    prover = Prover(_source(casts), SIGNATURES["Pointwise"], tmp_path / "casts")
    assert (prover.reference.float64_by, prover.reference.failure) == ("program", None)
    assert prover.judge(right(prover, "exported")).status == "pass"


def test_a_model_without_a_float64_answer_is_said_to_have_no_reference(tmp_path: Path) -> None:
    from export.artifact import PROGRAM_RECORD, ProgramRecord

    class NotTraced(Prover):
        """As if the tracer had failed, so that nobody can answer in float64."""

        def capture(self, source: Source, folder: Path) -> None:
            super().capture(source, folder)
            path = folder / PROGRAM_RECORD
            write(path, replace(read(ProgramRecord, path), failure="not traced"))

    prover = NotTraced(_source("only_float32"), SIGNATURES["Pointwise"], tmp_path / "narrow")
    report = prover.judge(prover.build("torchscript", tmp_path / "torchscript"))
    assert report.status == "no-reference"
    assert "TypeError: this operator takes float32" in report.reasons[0]
    assert report.outputs == ()


class Random(nn.Module):
    """Dropout without ``training=``: another answer every time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5)


def random(argument: str) -> nn.Module:
    return Random().eval()


def test_a_model_that_its_inputs_do_not_determine_proves_nothing(tmp_path: Path) -> None:
    prover = Prover(_source("random"), SIGNATURES["Pointwise"], tmp_path / "random")
    report = prover.judge(right(prover, "exported"))
    assert report.status in ("fail", "inconclusive")


# Cases


def test_real_rows_come_first_then_perturbed_ones() -> None:
    signature = Signature(inputs=(rows("x", 2),), ranges={"batch": SizeRange()})
    real = {"x": np.arange(10, dtype=np.float32).reshape(5, 2)}
    pool = Pool(signature=signature, samples=real, seed=0)
    drawn = pool.call(12)["x"]
    assert pool.real_rows_count == 5
    assert np.array_equal(drawn[:5], real["x"])
    assert not np.array_equal(drawn[5:10], real["x"])
    assert np.abs(drawn[5:10] - real["x"]).max() < 5 * 0.1 * real["x"].std()


def test_a_smaller_batch_is_the_beginning_of_a_larger_one() -> None:
    pool = Pool(signature=SIGNATURES["Mlp"], samples={}, seed=0)
    assert np.array_equal(pool.call(7)["x"], pool.call(257)["x"][:7])
    assert np.array_equal(pool.call(100, start=50)["x"], pool.call(150)["x"][50:])


def test_the_plan_covers_calls_rows_ends_odd_sizes_values_and_extremes() -> None:
    cases = plan(Pool(signature=SIGNATURES["Nested"], samples={}, seed=0), SPEC)
    assert [case.group for case in cases[:3]] == ["calls"] * 3
    assert sum(case.sizes["batch"] for case in cases if case.group == "rows" and case.name.startswith("rows")) == 2048
    assert {case.sizes["batch"] for case in cases} >= {1, 2, 7, 32, 257, 3, 13, 31, 33, 300}
    assert {case.sizes["length"] for case in cases} >= {2, 3, 13, 31, 33, 40}
    assert {case.group for case in cases} == {"calls", "rows", "sizes", "values", "extremes", "non-finite"}


def test_batch_zero_is_tried_where_it_is_declared() -> None:
    signature = Signature(inputs=(rows("x", 2),), ranges={"batch": SizeRange(min=0, max=9)})
    pool = Pool(signature=signature, samples={}, seed=0)
    (empty,) = [case for case in plan(pool, SPEC) if case.sizes["batch"] == 0 and case.group == "sizes"]
    assert pool.inputs(empty)["x"].shape == (0, 2)


def test_a_model_without_a_batch_is_called_often_instead() -> None:
    pool = Pool(signature=Signature(inputs=(TensorSpec("x", "float32", (6,)),)), samples={}, seed=0)
    calls = [pool.inputs(case)["x"] for case in plan(pool, SPEC) if case.group == "rows"]
    assert len({call.tobytes() for call in calls}) == len(calls) == 32


def test_real_rows_set_the_other_dimensions() -> None:
    pool = Pool(signature=SIGNATURES["Nested"], samples={"tokens": np.ones((9, 12), np.int64)}, seed=0)
    assert pool.sizes["length"] == 12
    assert pool.real_rows_count == 0  # the other input has no real rows
    assert pool.call(4)["tokens"].tolist() == [[1] * 12] * 4


# Levels


def answers(got: Values, wide: Values, eager: Values, case: Case = ROWS) -> Answers:
    return Answers(case, wide, eager, got)


def honest(n: int = 2048, channels: int = 3, seed: int = 0) -> tuple[Values, Values, Values]:
    """Float64 values, and two float32 answers that each round three times."""
    generator = np.random.default_rng(seed)
    wide: Values = generator.standard_normal((n, channels))

    def rounded() -> Values:
        noise = generator.uniform(-1, 1, (3, n, channels)) * np.finfo(np.float32).eps / 2
        return np.asarray(wide * np.prod(1 + noise, axis=0), np.float32)

    return wide, rounded(), rounded()


def test_honest_rounding_passes_error_slope_and_decisions() -> None:
    wide, eager, got = honest()
    for tally in (error := ErrorTally("y"), slope := SlopeTally("y")):
        tally.add(answers(got, wide, eager))
    assert [check.status for check in (*error.checks(LIMITS), *slope.checks(LIMITS))] == ["pass", "pass"]
    assert 0.8 < error.rms_ratio < 1.25
    assert (ulps := error.ulps()) is not None
    assert ulps.rms == pytest.approx(ulps.eager_rms, rel=0.2)


def test_a_small_relative_error_of_one_channel_shows_in_the_slope_alone() -> None:
    wide, eager, got = honest()
    got[:, 1] = got[:, 1].astype(np.float64) * (1 + 5e-7)
    error, slope = ErrorTally("y"), SlopeTally("y")
    for tally in (error, slope):
        tally.add(answers(got, wide, eager))
    (found,) = slope.checks(LIMITS)
    assert found.status == "fail"
    assert "channel 1" in found.words
    (ratio,) = error.checks(replace(LIMITS, max_rms_ratio=6.0, max_peak_ratio=6.0))
    assert ratio.status == "pass"


def test_errors_of_single_cases_are_held_to_the_rows() -> None:
    """Eight equal rows on which eager happens to be exact: an ordinary error of the artifact is no fault there."""
    wide, eager, got = honest()
    error = ErrorTally("y")
    error.add(answers(got, wide, eager))
    case = Case(group="extremes", name="zeros", sizes={"batch": 8})
    exact = np.full((8, 3), 0.5)
    lucky = exact.astype(np.float32)
    unlucky = np.nextafter(lucky, np.float32(1))
    error.add(answers(unlucky, exact, lucky, case))
    assert [check.status for check in error.checks(LIMITS)] == ["pass", "pass"]
    error.add(answers(unlucky + np.float32(1e-5), exact, lucky, replace(case, name="ones")))
    assert [check.status for check in error.checks(LIMITS)] == ["pass", "fail"]


def test_an_ill_conditioned_model_is_inconclusive() -> None:
    wide, eager, got = honest()
    error = ErrorTally("y")
    noise = np.asarray(0.1 * np.random.default_rng(1).standard_normal(wide.shape), np.float32)
    error.add(answers(got + noise, wide, eager + noise))
    assert error.checks(LIMITS)[0].status == "inconclusive"


def test_an_error_where_nothing_may_differ_is_infinite() -> None:
    error = ErrorTally("y")
    zeros = np.zeros((4, 2))
    error.add(answers(np.ones((4, 2), np.float32), zeros, zeros.astype(np.float32)))
    assert error.peak_ratio > 1e30
    assert error.checks(LIMITS)[0].status == "fail"


def test_structure_is_judged_by_float64_where_eager_agrees() -> None:
    wide = np.array([[1.0, math.nan, math.inf, 2.0]])
    eager = np.array([[1.0, math.nan, math.inf, math.inf]], np.float32)
    for got, status in (
        ([1.0, math.nan, math.inf, 2.0], "pass"),
        ([1.0, math.nan, math.inf, math.nan], "pass"),  # undefined in float32
        ([math.nan, math.nan, math.inf, 2.0], "fail"),
        ([1.0, 0.0, math.inf, 2.0], "fail"),
        ([1.0, math.nan, -math.inf, 2.0], "fail"),
    ):
        tally = StructureTally("y")
        tally.add(answers(np.array([got], np.float32), wide, eager))
        (check,) = tally.checks(nonfinite_inputs=False, known=None)
        assert check.status == status, got
        assert tally.undefined_count == 1


@pytest.mark.parametrize(("declared", "status"), [(False, "reported"), (True, "fail")])
def test_non_finite_inputs_fail_only_where_they_are_declared(declared: bool, status: str) -> None:
    tally = StructureTally("y")
    case = Case(group="non-finite", name="NaN in one element", sizes={})
    nan = np.array([[math.nan]])
    tally.add(answers(np.zeros((1, 1), np.float32), nan, nan.astype(np.float32), case))
    structure, special = tally.checks(nonfinite_inputs=declared, known="a runtime drops NaN")
    assert (structure.status, special.status) == ("pass", status)
    assert "a runtime drops NaN" in special.words


def test_integers_must_be_equal_where_eager_agrees_with_float64() -> None:
    tally = StructureTally("y")
    tally.add(answers(np.array([1, 2, 3]), np.array([1, 2, 3]), np.array([1, 2, 3])))
    assert tally.checks(nonfinite_inputs=False, known=None)[0].status == "pass"
    tally.add(answers(np.array([1, 5, 3]), np.array([1, 2, 3]), np.array([1, 2, 3])))
    assert tally.checks(nonfinite_inputs=False, known=None)[0].status == "fail"


def test_booleans_of_a_comparison_may_differ_about_as_often_as_eager_itself_does() -> None:
    """``y > 0`` flips where y is zero to rounding: eager flips some, an honest artifact others."""
    truth = np.zeros(1000, bool)
    eager, near, far = truth.copy(), truth.copy(), truth.copy()
    eager[:3], near[3:10], far[3:100] = True, True, True
    for got, status in ((near, "pass"), (far, "fail")):
        tally = StructureTally("y")
        tally.add(answers(got, truth, eager))
        assert tally.checks(nonfinite_inputs=False, known=None)[0].status == status


def test_an_integer_that_chooses_between_equals_may_differ() -> None:
    truth = np.array([[1.0, 1.0 - 1e-9, 0.0], [3.0, 1.0, 0.0]])
    scores = [(truth, truth.astype(np.float32))]
    best = truth.argmax(-1)
    assert explained_choices(best, np.array([1, 1]), scores).tolist() == [True, False]
    assert explained_choices(best, np.array([2, 9]), scores).tolist() == [False, False]
    tally = StructureTally("y")
    tally.add(answers(np.array([1, 0]), best, best), explained_choices(best, np.array([1, 0]), scores))
    assert tally.checks(nonfinite_inputs=False, known=None)[0].status == "pass"


def test_a_flip_within_honest_errors_is_explained_and_one_beyond_is_not() -> None:
    wide = np.array([[1.0, 0.0], [0.5, 0.5 + 1e-9], [1.0, 0.0]])
    eager = wide.astype(np.float32)
    near = eager.copy()
    near[1] = [0.6, 0.5]
    far = near.copy()
    far[2] = [0.0, 1.0]
    for got, flips_count, status in ((eager, 1, "pass"), (near, 1, "pass"), (far, 2, "fail")):
        tally = DecisionTally("y")
        tally.add(answers(got, wide, eager))
        result = tally.result(1e-6)
        assert result is not None
        assert result.flips_count == flips_count
        assert tally.checks(1e-6)[0].status == status


def test_a_single_probability_is_decided_at_a_half_and_a_score_at_zero() -> None:
    for wide, rule in ((np.array([[0.1], [0.9]]), "> 0.5"), (np.array([[-3.0], [0.9]]), "> 0")):
        tally = DecisionTally("y")
        tally.add(answers(wide.astype(np.float32), wide, wide.astype(np.float32)))
        assert (result := tally.result(1e-6)) is not None
        assert (result.rule, result.flips_count) == (rule, 0)


def test_the_exact_interval_is_the_textbooks() -> None:
    """Clopper and Pearson's own example values: 0 of 10, 1 of 10, 5 of 10, 10 of 10."""
    for count, low, high in ((0, 0.0, 0.3085), (1, 0.0025, 0.4450), (5, 0.1871, 0.8129), (10, 0.6915, 1.0)):
        assert clopper_pearson(count, 10) == pytest.approx((low, high), abs=5e-5)
    assert clopper_pearson(0, 3000)[1] < 4 / 3000


def test_thresholds_rise_with_an_honest_variant_and_not_beyond_what_a_fault_would_reach() -> None:
    usual = NullVariant(name="rounding 0", output="y", rms_ratio=1.2, peak_ratio=3.0, slope_ulps=0.5)
    assert thresholds(SPEC, [usual]).raised is None
    risen = thresholds(SPEC, [usual, replace(usual, name="one thread", rms_ratio=3.0)])
    assert (risen.max_rms_ratio, risen.max_peak_ratio) == (3.75, 4.0)
    assert "one thread reaches 3" in str(risen.raised)
    assert beyond([usual]) is None
    wild = replace(usual, rms_ratio=40.0)
    assert thresholds(SPEC, [wild]).max_rms_ratio == 1.25 * MOST
    assert "float32 does not determine this model" in str(beyond([wild]))


def test_a_model_with_state_has_no_null_variants_and_cannot_be_calibrated(tmp_path: Path) -> None:
    """A fresh copy of it answers otherwise: such variants would raise the thresholds to anything."""
    prover = Prover(
        counting.source("Counting"), counting.SIGNATURES["Counting"], tmp_path / "c", ParitySpec(rows_count=64)
    )
    assert prover.reference.nulls == ()
    job = CalibrationJob(
        source=prover.source,
        signature=prover.signature,
        spec=prover.spec,
        program=str(prover.program),
        reference=str(prover.reference_folder),
        reference_sha256="r",
        cases=prover.reference.cases,
        seed=0,
        device="cpu",
        key="k",
    )
    with pytest.raises(UserError, match="keeps state between calls"):
        calibrate(to_json(job))


# Behaviour


class Careless(Runner):
    """A driver that checks nothing and hands memory on as it lies: what bare compiled code would see."""

    def __call__(self, inputs: Any) -> Any:
        raw = {name: _as_it_lies(array) for name, array in inputs.items()}
        return {"output": raw["x"].astype(np.float32) * 2}


def _as_it_lies(array: Any) -> Values:
    memory = array.numpy() if isinstance(array, torch.Tensor) else array
    return np.lib.stride_tricks.as_strided(memory, memory.shape, np.empty(memory.shape, memory.dtype).strides).copy()


def test_layouts_and_wrong_inputs_are_caught_where_nothing_guards_them(provers: Callable[[str], Prover]) -> None:
    prover = provers("Pointwise")
    runner = backends.load(right(prover, "exported"), LoadOptions())
    inputs = {"x": np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)}
    careless = Careless(runner.artifact, runner._loaded, LoadOptions())
    assert {check.status for check in layouts(runner, inputs)} == {"pass"}
    assert "fail" in {check.status for check in layouts(careless, inputs)}
    assert refusals(runner, inputs).status == "pass"
    accepted = refusals(careless, inputs)
    assert accepted.status == "fail"
    assert "x as float64" in accepted.words


class Drifting(Careless):
    """Another answer every time."""

    calls = 0

    def __call__(self, inputs: Any) -> Any:
        self.calls += 1
        return {"output": inputs["x"] + self.calls}


def test_a_call_that_differs_from_the_last_is_reported(provers: Callable[[str], Prover]) -> None:
    runner = backends.load(right(provers("Pointwise"), "exported"), LoadOptions())
    inputs = {"x": np.ones((2, 4), np.float32)}
    assert determinism(runner, inputs).status == "pass"
    assert determinism(Drifting(runner.artifact, runner._loaded, LoadOptions()), inputs).status == "reported"


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
        assert report["proved"] == {"batch": {"min": 1, "max": 65536}}
        metric = next(check for check in report["checks"] if check["level"] == "metric")
        assert metric["subject"] == "train_accuracy"
        assert "n=100 real rows" in metric["words"]


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
