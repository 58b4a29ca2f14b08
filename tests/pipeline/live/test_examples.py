"""What examples tell of a model, and what they leave open."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from export.errors import UserError
from export.signature import SizeRange
from pipeline.live.examples import describe


class Takes(nn.Module):
    """Only its parameters are read."""

    def forward(self, ids: Any, mask: Any = None, *, cache: Any = None, scale: float = 1.0) -> Any:
        return ids


IDS, MASK = torch.tensor([[3, 7, 5, 0]] * 2), torch.ones(2, 4, dtype=torch.bool)


def shapes(examples: Any, **options: Any) -> dict[str, tuple[int | str, ...]]:
    return {spec.name: spec.shape for spec in describe(Takes(), examples, **options).signature.inputs}


def test_one_example_moves_in_dimension_0_alone_and_that_is_said() -> None:
    described = describe(Takes(), (IDS, MASK))
    assert {spec.name: spec.shape for spec in described.signature.inputs} == {"ids": ("batch", 4), "mask": ("batch", 4)}
    assert described.signature.ranges["batch"].min == 1
    assert described.signature.ranges["batch"].max >= 32
    assert described.signature.inputs[0].bounds({}) == (0, 7)
    assert described.assumptions[0] == "inputs ids int64[batch, 4], mask bool[batch, 4]"
    assert described.assumptions[1].startswith(
        "only dimension 0, which all inputs share, moves "
        "(dynamic={'ids': {0: 'batch'}} or --dynamic ids:batch says which); "
    )
    assert described.assumptions[2] == "integers as seen: ids in [0, 7] (more examples show more)"
    assert np.array_equal(described.rows["ids"], IDS)


def test_dimensions_in_which_examples_differ_together_are_one() -> None:
    longer = {"ids": torch.zeros(5, 9, dtype=torch.int64), "mask": torch.ones(5, 9, dtype=torch.bool)}
    described = describe(Takes(), [(IDS, MASK), longer])
    assert {spec.name: spec.shape for spec in described.signature.inputs} == {
        "ids": ("batch", "ids_1"), "mask": ("batch", "ids_1"),
    }  # fmt: skip
    assert described.signature.ranges["ids_1"] == SizeRange(min=4, max=9)
    assert len(described.rows["ids"]) == 2  # the other's rows have another length


def test_no_shared_dimension_0_moves_nothing() -> None:
    described = describe(Takes(), (torch.zeros(3, 2), torch.zeros(4)))
    assert described.signature.ranges == {}
    assert described.assumptions[1].startswith("no dimension moves, since the inputs share no dimension 0")


@pytest.mark.parametrize(
    "dynamic",
    [
        {"ids": ("batch", "length"), "mask": ("batch", "length")},
        {"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", -1: "length"}},
        ({0: "batch", 1: "length"}, ("batch", "length")),
        ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length")},) * 2,
    ],
    ids=["names", "places", "in order", "Dim"],
)
def test_what_moves_is_said_by_name_or_as_torch_export_has_it(dynamic: Any) -> None:
    assert shapes((IDS, MASK), dynamic=dynamic) == {"ids": ("batch", "length"), "mask": ("batch", "length")}


def test_a_stated_range_is_kept_and_an_automatic_dimension_gets_a_name() -> None:
    dim = torch.export.Dim("batch", min=2, max=16)
    described = describe(Takes(), (IDS,), dynamic={"ids": {0: dim, 1: torch.export.Dim.AUTO}}, ranges={"ids_1": (4, 8)})
    assert described.signature.ranges == {"batch": SizeRange(min=2, max=16), "ids_1": SizeRange(min=4, max=8)}
    assert "assumed" not in described.assumptions[1]
    assert describe(Takes(), (IDS,), ranges={"batch": (1, 9)}).signature.ranges == {"batch": SizeRange(max=9)}


class Pair(NamedTuple):
    key: torch.Tensor
    value: torch.Tensor


def test_nested_inputs_are_paths_and_what_is_no_tensor_is_constant() -> None:
    cache = [Pair(torch.zeros(2, 3), torch.zeros(2, 3))]
    described = describe(Takes(), {"ids": IDS.numpy(), "cache": cache, "scale": 0.5}, dynamic={"ids": ("batch",)})
    assert [spec.name for spec in described.signature.inputs] == ["ids", "cache.0.key", "cache.0.value"]
    assert described.signature.constants == {"scale": 0.5}


@pytest.mark.parametrize(
    ("examples", "options", "reason"),
    [
        ((), {}, "the example does not fit forward.*missing a required argument: 'ids'. A tuple holds"),
        ([], {}, "examples must hold at least one call"),
        ({"ids": 3}, {}, "the example must hold at least one tensor"),
        ({"words": IDS}, {}, "does not fit forward"),
        ((IDS, object()), {}, "mask must be a tensor, or a container of tensors, got object"),
        ([(IDS,), (IDS, MASK)], {}, r"same inputs, got \['ids'\] and \['ids', 'mask'\]"),
        ([(IDS,), (IDS.float(),)], {}, "ids must have the same dtype and rank in all examples"),
        ((IDS,), {"dynamic": {"words": {0: "n"}}}, "dynamic names 'words', the example's inputs are ids"),
        ((IDS,), {"dynamic": {"ids": {2: "n"}}}, "dynamic names dimension 2 of ids, which has 2"),
        ((IDS,), {"dynamic": ({}, {})}, "dynamic has 2 entries, the example has 1 inputs: ids"),
        ((IDS,), {"dynamic": {"ids": {0: 2 * torch.export.Dim("half")}}}, "must be a name, a torch.export.Dim or None"),
        ((IDS,), {"ranges": {"length": (1, 5)}}, "ranges names 'length', but what moves is batch"),
        ((IDS,), {"ranges": {"batch": 5}}, "must be a SizeRange or a pair of sizes, got 5"),
        ((IDS,), {"ranges": {"batch": (3, 5)}}, r"an example does not fit .* 'batch' must lie in \[3, 5\], got 2"),
        ((IDS, MASK[:1]), {"dynamic": {"ids": ("n",), "mask": ("n",)}}, "an example does not fit .* got 1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(examples: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        describe(Takes(), examples, **options)
