"""Output sizes are the program's own: expressions over the declared symbols, or ``?``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from export.completion import complete
from export.errors import ContractError, UserError
from export.program import capture
from export.signature import Signature, SizeRange, TensorSpec
from export.sizes import UNKNOWN, from_torch, size_of, symbols_of
from tests.torches import since


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("batch", 6), ("height // 2", 3), ("(height - 1) // 4 + 1", 2), ("batch * height", 42), ("max(batch, 9)", 9),
        ("-batch + height", 1), ("height % 4", 3), ("?", None),
    ],
)  # fmt: skip
def test_an_expression_has_a_size(text: str, size: int | None) -> None:
    assert size_of(text, {"batch": 6, "height": 7}) == size


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "a ** 9999", "a.b", "a if b else c", "lambda: 0", "a[0]", "1.5", "f(a)", "",
        "max(a)", "a / 2", "-" * 300 + "a", "+".join(["a"] * 300),
    ],
)  # fmt: skip
def test_nothing_else_is_ever_evaluated(text: str) -> None:
    with pytest.raises(UserError, match="a size"):
        TensorSpec("x", "float32", (text,))


def test_pytorchs_spelling_is_put_into_the_signatures_names() -> None:
    symbols = {"s0": "height", "s1": "width // 4"}
    assert from_torch("((s0 - 1)//2) + 1", symbols) == "(height - 1) // 2 + 1"
    assert from_torch("FloorDiv(s0, 2)", symbols) == "height // 2"
    assert from_torch("4*s1", symbols) == "width"
    assert from_torch("Max(1, s0)", symbols) == "max(1, height)"
    assert from_torch("u0", symbols) == UNKNOWN
    assert from_torch("CeilToInt(IntTrueDiv(s0, 2))", symbols) == UNKNOWN
    assert symbols_of("max(1, height) * w") == {"height", "w"}


class Pooled(nn.Module):
    """Height and width have the same least size: a guess by equal numbers takes one for the other."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch, channels, height, width = image.shape
        pooled = nn.functional.max_pool2d(image, 2)
        return pooled, image.transpose(2, 3), image.reshape(batch * channels, height * width)


IMAGE = Signature(
    inputs=(TensorSpec("image", "float32", ("batch", 2, "height", "width")),),
    output_names=("pooled", "turned", "rows"),
    ranges={"batch": SizeRange(max=8), "height": SizeRange(min=8, max=64), "width": SizeRange(min=8, max=64)},
)


@since("2.13", "fixes sizes that are halved")
def test_a_traced_program_says_what_its_sizes_are() -> None:
    signature = capture(Pooled(), complete(Pooled(), IMAGE, seed=0), seed=0).signature
    sizes = {"batch": 5, "height": 9, "width": 33}
    shapes = [[size_of(dim, sizes) for dim in spec.shape] for spec in signature.outputs]
    assert shapes == [[5, 2, 4, 16], [5, 2, 33, 9], [10, 297]]
    assert signature.outputs[0].shape == ("batch", 2, "height // 2", "width // 2")


def test_what_cannot_be_told_without_a_trace_is_left_to_the_call() -> None:
    outputs = complete(Pooled(), IMAGE, seed=0).outputs
    assert outputs[0].shape == ("batch", 2, UNKNOWN, UNKNOWN)
    assert outputs[1].shape == ("batch", 2, "width", "height")


def test_a_size_that_data_decide_is_unknown() -> None:
    class Positive(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[x > 0]

    signature = Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(max=64)})
    captured = capture(Positive(), complete(Positive(), signature, seed=0), seed=0).signature
    assert captured.outputs[0].shape == (UNKNOWN,)


def test_a_batch_stands_twice_in_a_shape_and_a_scalar_has_none() -> None:
    class Against(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x @ x.T, x.sum()

    signature = Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(max=64)})
    captured = capture(Against(), complete(Against(), signature, seed=0), seed=0).signature
    assert [spec.shape for spec in captured.outputs] == [("batch", "batch"), ()]


class Halved(nn.Module):
    """Accepts multiples of 4 alone."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        batch, height = image.shape
        return image.reshape(batch, height // 4, 4).sum(-1)


def test_sizes_are_multiples_where_that_is_declared() -> None:
    ranges: dict[str, Any] = {"batch": SizeRange(max=8), "height": SizeRange(min=4, max=64, multiple=4)}
    signature = Signature(inputs=(TensorSpec("image", "float32", ("batch", "height")),), ranges=ranges)
    captured = capture(Halved(), complete(Halved(), signature, seed=0), seed=0)
    assert captured.signature.outputs[0].shape == ("batch", "height // 4")
    assert captured.exported.module()(torch.zeros(2, 64))[0].shape == (2, 16)
    with pytest.raises(ContractError, match="multiple of 4, got 6"):
        signature.check_arrays([torch.zeros(2, 6)])


def test_a_range_knows_its_nearest_size() -> None:
    bounds = SizeRange(min=8, max=64, multiple=8)
    assert [bounds.fit(size) for size in (1, 11, 12, 33, 900)] == [8, 8, 16, 32, 64]
    with pytest.raises(UserError, match="multiples of multiple=8"):
        SizeRange(min=1, max=64, multiple=8)


def test_example_sizes_differ_where_they_can() -> None:
    sizes = IMAGE.example_sizes()
    assert len(set(sizes.values())) == 3
    assert all(size in IMAGE.ranges[name] for name, size in sizes.items())
