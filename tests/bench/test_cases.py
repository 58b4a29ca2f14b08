"""The inputs of parity: which sizes and values are tried, and where they come from."""

from __future__ import annotations

import numpy as np
import pytest

from bench.parity.cases import Pool, plan
from bench.parity.changes import EXTREMES, VALUES
from bench.parity.spec import ParitySpec
from export.signature import Signature, SizeRange, TensorSpec
from tests.bench.conftest import SPEC
from tests.models import SIGNATURES, rows


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


def test_one_is_tried_wherever_it_is_declared_and_of_several_dimensions_at_once() -> None:
    """Compilers take a size of 1 for a case apart; here it is neither an end nor odd."""
    signature = Signature(
        inputs=(TensorSpec("x", "float32", ("a", "b", 2)), TensorSpec("y", "float32", ("c", 2))),
        ranges={"a": SizeRange(min=0, example=5), "b": SizeRange(min=0, example=5), "c": SizeRange(min=2, example=5)},
    )
    ones = [{"a": 1, "b": 5, "c": 5}, {"a": 5, "b": 1, "c": 5}, {"a": 1, "b": 1, "c": 5}]
    assert signature.ones(signature.example_sizes()) == ones
    tried = [case.sizes for case in plan(Pool(signature=signature, samples={}, seed=0), SPEC)]
    assert ones[2] in tried
    assert {sizes["a"] for sizes in tried} & {sizes["b"] for sizes in tried} >= {0, 1}


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


@pytest.mark.parametrize("count", [1, 3, 64, 100])
def test_integers_that_point_at_rows_of_a_call_stay_within_that_call(count: int) -> None:
    signature = Signature(
        inputs=(rows("x", 2), TensorSpec("pairs", "int64", (2, 500), high="batch - 1")),
        ranges={"batch": SizeRange()},
    )
    pool = Pool(signature=signature, samples={}, seed=0)
    called = pool.call(count)
    assert (called["pairs"].min(), called["pairs"].max()) == (0, count - 1)
    assert np.array_equal(called["pairs"], pool.call(count)["pairs"])
