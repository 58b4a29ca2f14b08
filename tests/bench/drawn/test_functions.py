"""What a function draws is held to the signature, is the same bits wherever it is drawn, and is known by its name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from export import tensor
from export.errors import UserError
from export.record import from_json, to_json
from export.signature import Signature, SizeRange, TensorSpec
from tests.bench.drawn.models import BAGS, offsets

SIZES = {"total": 7, "bags": 3}


def too_short(sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    return torch.zeros(sizes["bags"] - 1, dtype=torch.int64)


def floats(sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    return torch.zeros(sizes["bags"])


def past_the_end(sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    return torch.full((sizes["bags"],), sizes["total"] + 1)


def of_its_own(sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, sizes["total"] + 1, (sizes["bags"],))


def numbers(sizes: dict[str, int], generator: torch.Generator) -> list[int]:
    return [0] * sizes["bags"]


def nothing(sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    raise ValueError("no bag")


def not_a_number(sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    return torch.full((2,), torch.nan)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (too_short, r"must draw offsets at total=7, bags=3 as int64\[3\], got int64\[2\]"),
        (floats, r"must draw offsets at total=7, bags=3 as int64\[3\], got float32\[3\]"),
        (past_the_end, "must draw offsets at total=7, bags=3 with values between -inf and 7, got 8"),
        (of_its_own, "draws offsets at total=7, bags=3 differently from the same generator"),
        (numbers, "offsets at total=7, bags=3 must be drawn as a tensor, got list"),
        (nothing, "offsets at total=7, bags=3 cannot be drawn: ValueError: no bag"),
    ],
)
def test_what_breaks_the_signature_is_refused_with_input_sizes_and_what_came(
    function: Callable[[dict[str, int], torch.Generator], torch.Tensor], message: str
) -> None:
    torch.manual_seed(3)
    spec = replace(BAGS.inputs[1], draw=function)
    with pytest.raises(UserError, match=message):
        tensor.draw(spec, SIZES, 0)


def test_no_number_lies_outside_of_any_bounds_but_nan() -> None:
    with pytest.raises(UserError, match="with values between -inf and inf, got nan"):
        tensor.draw(TensorSpec("x", "float32", (2,), draw=not_a_number), {}, 0)


def test_draws_differ_by_seed_and_input_alone() -> None:
    sizes = {"total": 300, "bags": 20}
    first, again, other = (BAGS.example(sizes, seed)["offsets"] for seed in (0, 0, 1))
    assert first.dtype == np.int64
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert first[0] == 0
    assert (np.diff(first) >= 0).all()
    renamed = replace(BAGS.inputs[1], name="ends")
    assert tensor.draw(renamed, sizes, 0).tobytes() != first.tobytes()


def test_a_record_holds_the_functions_name() -> None:
    fields = to_json(BAGS)
    assert fields["inputs"][1]["draw"] == "tests.bench.drawn.models:offsets"
    assert from_json(Signature, fields) == BAGS
    assert BAGS.has_draw_functions
    assert not replace(BAGS, inputs=(BAGS.inputs[0],), ranges={"total": SizeRange(max=300)}).has_draw_functions


@pytest.mark.parametrize("name", ["os:getcwd", "tests.bench.drawn.models:offsets"])
@pytest.mark.usefixtures("no_functions")
def test_a_name_alone_is_never_imported_and_never_called(name: str) -> None:
    spec = from_json(TensorSpec, to_json(BAGS.inputs[1]) | {"draw": name})
    with pytest.raises(UserError, match=f"is drawn by {name}, which this process does not have"):
        tensor.draw(spec, SIZES, 0)


@pytest.mark.parametrize("function", [lambda sizes, generator: torch.zeros(3), functools.partial(offsets)])
def test_a_function_that_others_cannot_name_is_refused(
    function: Callable[[dict[str, int], torch.Generator], torch.Tensor],
) -> None:
    with pytest.raises(UserError, match="must be a function that stands at the top of a module"):
        TensorSpec("x", "int64", (3,), draw=function)


def test_another_word_is_no_way_to_draw() -> None:
    with pytest.raises(UserError, match="draw must be a function or one of auto, uniform, prefix, got 'gaussian'"):
        TensorSpec("x", "int64", (3,), draw="gaussian")


@pytest.fixture
def no_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has loaded no recipe."""
    monkeypatch.setattr(tensor, "_functions", {})


def couples(sizes: dict[str, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Everybody at most once."""
    people = torch.randperm(2 * sizes["couples"], generator=generator)
    return dict(zip(("leads", "follows"), people.chunk(2), strict=True))


def half_of_them(sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    return couples(sizes, generator)["leads"]


def test_a_function_of_several_inputs_draws_them_together() -> None:
    for seed in range(20):
        example = _by(couples).example({"couples": 100}, seed)
        assert {*example["leads"].tolist()} | {*example["follows"].tolist()} == {*range(200)}


def test_a_function_of_one_input_draws_each_for_itself() -> None:
    """The twin: two inputs by one function would hide an artifact that takes the one for the other."""
    example = _by(half_of_them).example({"couples": 100}, seed=0)
    assert example["leads"].tolist() != example["follows"].tolist()


def test_an_input_that_its_function_does_not_draw_is_named() -> None:
    spec = TensorSpec("watches", "int64", ("couples",), high=199, draw=couples)
    with pytest.raises(UserError, match=r"watches at couples=3 must be among what its function draws.*leads, follows"):
        tensor.draw(spec, {"couples": 3}, 0)


def _by(function: tensor.DrawFunction) -> Signature:
    specs = (TensorSpec(name, "int64", ("couples",), high=199, draw=function) for name in ("leads", "follows"))
    return Signature(inputs=tuple(specs), ranges={"couples": SizeRange(max=100)})
