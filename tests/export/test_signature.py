from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from export.errors import ContractError, UserError
from export.signature import Signature, SizeRange, TensorSpec
from tests.models import SIGNATURES

NESTED = SIGNATURES["Nested"]


def test_example_sizes_differ_by_symbol_and_avoid_0_and_1() -> None:
    sizes = NESTED.example_sizes()
    assert len(set(sizes.values())) == len(sizes)
    assert all(size > 1 for size in sizes.values())
    assert Signature(inputs=(TensorSpec("x", "float32", ("n",)),), ranges={"n": SizeRange(max=1)}).example_sizes() == {
        "n": 1
    }


def test_an_example_has_the_declared_shapes_types_and_bounds_and_follows_its_seed() -> None:
    example = NESTED.example({"batch": 50, "length": 7}, seed=3)
    assert example["tokens"].shape == (50, 7)
    assert example["tokens"].dtype == np.int64
    assert example["tokens"].min() == 0
    assert example["tokens"].max() == 19
    again = NESTED.example({"batch": 50, "length": 7}, seed=3)
    assert all(np.array_equal(example[name], again[name]) for name in example)
    other = NESTED.example({"batch": 50, "length": 7}, seed=4)
    assert not np.array_equal(example["tokens"], other["tokens"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens": np.zeros((2, 5), np.int32)}, "tokens must be int64, got int32"),
        ({"tokens": np.zeros((2,), np.int64)}, r"tokens must have shape \['batch', 'length'\], got \[2\]"),
        ({"scale": np.zeros((3,), np.float32)}, r"scale must have size 2 in dimension 0 \('batch'\), got 3"),
        ({"tokens": np.zeros((2, 41), np.int64)}, r"'length' must lie in \[2, 40\], got 41"),
        ({"extra": np.zeros(1)}, "inputs must be"),
    ],
)
def test_inputs_that_break_the_contract_are_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    good: dict[str, Any] = {"tokens": np.zeros((2, 5), np.int64), "scale": np.zeros((2,), np.float32)}
    assert NESTED.check_inputs(good) == {"batch": 2, "length": 5}
    with pytest.raises(ContractError, match=reason):
        NESTED.check_inputs(good | change)


def test_a_frozen_output_dimension_is_named() -> None:
    signature = replace(SIGNATURES["Mlp"], outputs=(TensorSpec("y", "float32", ("batch", 3)),))
    with pytest.raises(ContractError, match=r"y must have size 7 in dimension 0 \('batch'\), got 3"):
        signature.check_outputs([np.zeros((3, 3), np.float32)], {"batch": 7})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Signature(inputs=()), "at least one input"),
        (lambda: TensorSpec("..", "float32", ()), r"no '\.' first, got '\.\.'"),
        (lambda: TensorSpec("a/b", "float32", ()), "TensorSpec.name must be letters"),
        (lambda: Signature(inputs=(TensorSpec("x", "float32", ("n",)),)), "every symbol needs a range"),
        (
            lambda: Signature(inputs=(TensorSpec("x", "float32", (3,)),), ranges={"batch": SizeRange()}),
            "'batch' is declared, but no input has it",
        ),
        (lambda: Signature(inputs=(TensorSpec("x", "float32", ()),), output_names=("x",)), "must differ"),
        (lambda: TensorSpec("x", "float31", ()), "dtype must be one of"),
        (lambda: TensorSpec("x", "complex64", ()), "x: runtimes take no complex numbers, .* hand over pairs of real"),
        (lambda: TensorSpec("a b", "float32", ()), "must be letters"),
        (lambda: SizeRange(min=5, max=4), "0 <= min <= max"),
        (lambda: SizeRange(max=4, example=5), r"must lie in \[1, 4\], got 5"),
    ],
)
def test_a_signature_that_cannot_be_is_refused(make: object, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        make()  # type: ignore[operator]


GRAPH = Signature(
    inputs=(
        TensorSpec("features", "float32", ("nodes", 8)),
        TensorSpec("edges", "int64", (2, "edges"), high="nodes - 1"),
    ),
    ranges={"nodes": SizeRange(max=64), "edges": SizeRange(min=0)},
)


@pytest.mark.parametrize("nodes", [1, 2, 50])
def test_integers_that_point_into_another_tensor_stay_within_it(nodes: int) -> None:
    edges = GRAPH.example({"nodes": nodes, "edges": 1000}, seed=0)["edges"]
    assert (edges.min(), edges.max()) == (0, nodes - 1)


def test_what_bounds_integers_must_be_a_size_of_an_input() -> None:
    with pytest.raises(UserError, match="depends on 'vertices', which no input's shape has"):
        replace(GRAPH, inputs=(GRAPH.inputs[0], replace(GRAPH.inputs[1], high="vertices - 1")))
    with pytest.raises(UserError, match="only integers are bounded by sizes, got 'nodes' for float32"):
        TensorSpec("x", "float32", ("nodes",), high="nodes")
    with pytest.raises(UserError, match=r"low and high must be numbers or sizes, got '\?'"):
        TensorSpec("x", "int64", ("nodes",), high="?")
    nothing_to_point_at = replace(GRAPH, ranges=GRAPH.ranges | {"nodes": SizeRange(min=0)})
    with pytest.raises(UserError, match=r"edges: low must be <= high, got 0 and -1 at .*: raise the least size"):
        nothing_to_point_at.example({"nodes": 0, "edges": 5}, seed=0)
    assert nothing_to_point_at.example({"nodes": 0, "edges": 0}, seed=0)["edges"].shape == (2, 0)
