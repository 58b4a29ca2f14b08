"""Every architecture answers at its smallest, its example's, a middle and its largest sizes."""

from __future__ import annotations

import pytest
import torch

from export.arrays import to_torch
from export.flat import FlatModule
from export.signature import Signature
from tests.conformance.suite import Architecture, architectures

_MOST_PARAMETERS = 10_000_000


def _sizes(signature: Signature) -> list[dict[str, int]]:
    smallest = {name: bounds.min for name, bounds in signature.ranges.items()}
    largest = {name: bounds.max for name, bounds in signature.ranges.items()}
    middle = {name: (smallest[name] + largest[name]) // 2 for name in smallest}
    return [smallest, signature.example_sizes(), middle, largest]


@pytest.mark.extra
@pytest.mark.filterwarnings("default")  # what libraries say to each other is not ours
@pytest.mark.parametrize("architecture", architectures(), ids=lambda architecture: architecture.name)
def test_it_answers_at_every_size(architecture: Architecture) -> None:
    if architecture.missing:
        pytest.skip(f"extra: {architecture.missing} is not installed: pip install 'torchstone[conformance]'")
    recipe = architecture.recipe()
    assert recipe.name == architecture.name
    assert architecture.about
    torch.manual_seed(recipe.seed)
    module = FlatModule(recipe.model().eval(), recipe.signature)
    assert sum(parameter.numel() for parameter in module.parameters()) < _MOST_PARAMETERS
    for sizes in _sizes(recipe.signature):
        with torch.no_grad():
            answers = module(*[to_torch(array) for array in recipe.signature.example(sizes, recipe.seed).values()])
        assert all(answer.isfinite().all() for answer in answers), sizes


def test_names_differ_and_there_are_enough() -> None:
    names = [architecture.name for architecture in architectures()]
    assert len({*names}) == len(names) >= 60
