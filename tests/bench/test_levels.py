"""The levels of parity by themselves, on made-up answers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.parity.answers import Answers
from bench.parity.cases import Case, Values
from bench.parity.equivalent import MOST, EquivalentVariant, ill_conditioned, thresholds
from bench.parity.levels.decisions import DecisionTally, clopper_pearson, explained_choices
from bench.parity.levels.error import ErrorTally
from bench.parity.levels.nonfinite import NonFiniteTally
from bench.parity.levels.structure import StructureTally
from bench.parity.levels.systematic import SlopeTally
from bench.parity.spec import Thresholds
from bench.parity.worst import worst_element
from export import registry
from tests.bench.conftest import SPEC, ModelRuns
from tests.bench.test_fidelity import a_context

LIMITS = Thresholds(max_rms_ratio=2.0, max_peak_ratio=4.0, max_slope_ulps=4.0)
ROWS = Case(group="rows", name="rows 0 to 2047", sizes={"batch": 2048})


def answers(got: Values, wide: Values, eager: Values, case: Case = ROWS) -> Answers:
    return Answers(output="y", case=case, wide=wide, eager=eager, got=got)


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
    assert "channel 1" in found.message
    (ratio,) = error.checks(replace(LIMITS, max_rms_ratio=6.0, max_peak_ratio=6.0))
    assert ratio.status == "pass"


@pytest.mark.parametrize(("of_eager", "status"), [(4e-7, "pass"), (1e-7, "fail")])
def test_a_slope_is_held_to_eagers_steepest_in_any_channel(of_eager: float, status: str) -> None:
    """Weights of a resized image are computed in float32: whose error is in which channel is a matter of order."""
    wide, eager, got = honest()
    eager[:, 2] = eager[:, 2].astype(np.float64) * (1 + of_eager)
    got[:, 1] = got[:, 1].astype(np.float64) * (1 + 8e-7)
    slope = SlopeTally("y")
    slope.add(answers(got, wide, eager))
    (found,) = slope.checks(LIMITS)
    assert found.status == status


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
        (check,) = tally.checks()
        assert check.status == status, got
        assert tally.undefined_count == 1


@pytest.mark.parametrize(("declared", "status"), [(False, "reported"), (True, "fail")])
def test_non_finite_inputs_fail_only_where_they_are_declared(declared: bool, status: str, runs: ModelRuns) -> None:
    case = Case(group="non-finite", name="NaN in one element", sizes={})
    nan = np.array([[math.nan]])
    answered = answers(np.zeros((1, 1), np.float32), nan, nan.astype(np.float32), case)
    structure, nonfinite = StructureTally("y"), NonFiniteTally("y")
    for tally in (structure, nonfinite):
        tally.add(answered)
    context = replace(
        a_context(runs("Pointwise"), "float32"),
        spec=replace(SPEC, nonfinite_inputs=declared),
        backend=registry.get("onnx"),
        operators=("aten.max_pool2d.default",),
    )
    (of_form,), (special,) = structure.checks(), nonfinite.checks(context)
    assert (of_form.status, special.status) == ("pass", status)
    assert "ONNX Runtime's MaxPool drops NaN" in special.message
    assert special.cases == ("NaN in one element",)


def test_integers_must_be_equal_where_eager_agrees_with_float64() -> None:
    tally = StructureTally("y")
    tally.add(answers(np.array([1, 2, 3]), np.array([1, 2, 3]), np.array([1, 2, 3])))
    assert tally.checks()[0].status == "pass"
    tally.add(answers(np.array([1, 5, 3]), np.array([1, 2, 3]), np.array([1, 2, 3])))
    assert tally.checks()[0].status == "fail"


def test_booleans_of_a_comparison_may_differ_about_as_often_as_eager_itself_does() -> None:
    """``y > 0`` flips where y is zero to rounding: eager flips some, an honest artifact others."""
    truth = np.zeros(1000, bool)
    eager, near, far = truth.copy(), truth.copy(), truth.copy()
    eager[:3], near[3:10], far[3:100] = True, True, True
    for got, status in ((near, "pass"), (far, "fail")):
        tally = StructureTally("y")
        tally.add(answers(got, truth, eager))
        assert tally.checks()[0].status == status


def test_an_integer_that_chooses_between_equals_may_differ() -> None:
    truth = np.array([[1.0, 1.0 - 1e-9, 0.0], [3.0, 1.0, 0.0]])
    scores = [(truth, truth.astype(np.float32))]
    best = truth.argmax(-1)
    assert explained_choices(best, np.array([1, 1]), scores).tolist() == [True, False]
    assert explained_choices(best, np.array([2, 9]), scores).tolist() == [False, False]
    tally = StructureTally("y")
    tally.add(replace(answers(np.array([1, 0]), best, best), scores=lambda: scores))
    assert tally.checks()[0].status == "pass"


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
    usual = EquivalentVariant(kind="rounding", number=0, output="y", rms_ratio=1.2, peak_ratio=3.0, slope_ulps=0.5)
    assert thresholds(SPEC, [usual]).raised is None
    risen = thresholds(SPEC, [usual, replace(usual, kind="one thread", number=None, rms_ratio=3.0)])
    assert (risen.max_rms_ratio, risen.max_peak_ratio) == (3.75, 4.0)
    assert "one thread reaches 3" in str(risen.raised)
    assert ill_conditioned([usual]) is None
    wild = replace(usual, rms_ratio=40.0)
    assert thresholds(SPEC, [wild]).max_rms_ratio == 1.25 * MOST
    assert "float32 does not determine this model" in str(ill_conditioned([wild]))


def test_the_worst_element_is_shown_with_the_row_that_went_in() -> None:
    wide = np.arange(6.0).reshape(3, 2)
    got = wide.astype(np.float32)
    got[1, 0] += 0.5
    got[2, 1] = np.nan  # which float64 is not: farther off than any number
    inputs = {"x": np.arange(30.0).reshape(3, 10), "scale": np.array(2.0), "ids": np.array([7, 8, 9])}
    worst = worst_element(answers(got, wide, wide.astype(np.float32)), inputs, frozenset({"x", "ids"}))
    assert worst is not None
    assert (worst.row, worst.element, worst.expected, worst.got) == (2, (1,), "5", "nan")
    assert worst.inputs == {"x": "[20, 21, 22, 23, 24, 25, 26, 27, ...] (10 values)", "scale": "[2]", "ids": "[9]"}
    assert worst.text.startswith("y[2, 1] of rows 0 to 2047: expected 5, eager 5, got nan; for x = [20, 21,")


def test_where_nothing_differs_or_can_be_compared_there_is_no_worst_element() -> None:
    wide = np.array(3.5)
    same = answers(wide, wide, wide)
    assert worst_element(same, {}, frozenset()) is None
    assert worst_element(replace(same, got=np.zeros(2)), {}, frozenset()) is None
    off = worst_element(replace(same, got=np.array(3.0)), {}, frozenset())
    assert off is not None
    assert (off.row, off.element, off.got) == (0, (), "3")
