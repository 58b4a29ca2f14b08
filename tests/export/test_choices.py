from __future__ import annotations

import pytest
import torch
from torch import nn

from export.choices import Choice, choices


class Model(nn.Module):
    """Indices moved, cast, computed with, gathered by, and made into floats."""

    def forward(self, x: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = x.sigmoid()
        top = scores.topk(3, 1)
        second = top.indices[:, 1].to(torch.int32)
        gathered = boxes.gather(1, top.indices[..., None].expand(-1, -1, 4))
        return top.values, second, gathered, top.indices % 4, top.indices.float(), scores.min(1).indices, x.argmax()


def choices_of(module: nn.Module, *tensors: torch.Tensor) -> tuple[Choice, ...]:
    return choices(torch.export.export(module, tensors).module().graph)


def test_outputs_are_indices_or_computed_from_them_or_neither() -> None:
    top, least, best = choices_of(Model(), torch.randn(5, 9), torch.randn(5, 9, 4))
    assert [(choice.dim, choice.largest, choice.several) for choice in (top, least, best)] == [
        (1, True, True), (1, False, False), (None, True, False),
    ]  # fmt: skip
    assert [[number for number, _ in choice.indices] for choice in (top, least, best)] == [[1], [5], [6]]
    assert [choice.dependent for choice in (top, least, best)] == [(2, 3, 4), (), ()]


class Order(nn.Module):
    def __init__(self, descending: bool, stable: bool) -> None:
        super().__init__()
        self.descending, self.stable = descending, stable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x, stable=self.stable, dim=0, descending=self.descending).indices


@pytest.mark.parametrize(("descending", "stable"), [(True, False), (False, True)])
def test_order_and_stability_are_the_operators_own(descending: bool, stable: bool) -> None:
    (choice,) = choices_of(Order(descending, stable), torch.randn(4, 2))
    assert (choice.largest, choice.stable, choice.dim, choice.ordered) == (descending, stable, 0, True)


def test_a_model_that_does_not_choose_has_none() -> None:
    assert choices_of(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4)) == ()


class Unsorted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.topk(2, sorted=False).indices


def test_that_any_order_will_do_is_the_operators_own() -> None:
    (choice,) = choices_of(Unsorted(), torch.randn(2, 4))
    assert ([number for number, _ in choice.indices], choice.ordered) == ([0], False)
