"""Nested inputs are bound by path, constants by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from export.arguments import Arguments
from export.errors import UserError
from export.flat import FlatModule
from export.record import from_json, to_json
from export.signature import Signature, SizeRange, TensorSpec


@dataclass
class State:
    hidden: torch.Tensor
    cell: torch.Tensor


class Window(NamedTuple):
    first: torch.Tensor
    last: torch.Tensor


class Nests(nn.Module):
    def forward(
        self,
        x: torch.Tensor,
        cache: tuple[tuple[torch.Tensor, torch.Tensor], ...],
        states: list[State] | None = None,
        window: Window | None = None,
        extra: dict[str, torch.Tensor] | None = None,
        gain: int = 1,
    ) -> Any:
        self.seen = (cache, states, window, extra, gain)
        return x


def specs(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", ("batch",)) for name in names)


def test_paths_become_tuples_lists_dicts_dataclasses_and_named_tuples() -> None:
    names = ("extra.a", "cache.1.0", "cache.0.1", "x", "cache.0.0", "cache.1.1", "states.0.cell", "states.0.hidden",
             "window.last", "window.first")  # fmt: skip
    signature = Signature(inputs=specs(*names), ranges={"batch": SizeRange()}, constants={"gain": 3})
    module = Nests()
    FlatModule(module, signature)(*(torch.tensor(float(number)) for number in range(len(names))))
    assert str(module.seen) == str(
        (
            ((torch.tensor(4.0), torch.tensor(2.0)), (torch.tensor(1.0), torch.tensor(5.0))),
            [State(hidden=torch.tensor(7.0), cell=torch.tensor(6.0))],
            Window(first=torch.tensor(9.0), last=torch.tensor(8.0)),
            {"a": torch.tensor(0.0)},
            3,
        )
    )


def test_without_annotations_names_decide() -> None:
    class Plain(nn.Module):
        def forward(self, cache, more):  # type: ignore[no-untyped-def]
            return cache, more

    arguments = Arguments.of(Plain(), specs("cache.0", "cache.1", "more.left", "more.right"))
    assert arguments.bind([1, 2, 3, 4]) == ([(1, 2), {"left": 3, "right": 4}], {})


def test_a_parameter_whose_name_has_the_whole_path_is_no_container() -> None:
    class Anything(nn.Module):
        def forward(self, x: Any, **more: Any) -> Any:
            return x

    inputs = (*specs("x"), TensorSpec("a.b", "float32", (), keyword=True))
    assert Arguments.of(Anything(), inputs).bind([1, 2]) == ([1], {"a.b": 2})


@pytest.mark.parametrize(
    ("names", "constants", "message"),
    [
        (("x", "cache.0.0", "cache.2.0"), {}, "the places of a nested input are 0 to 1, got 0, 2"),
        (("x", "cache.0.0"), {"gains": 2}, "no parameter is called 'gains'"),
        (("x",), {"gain": 2}, "nothing is given for 'cache'"),
    ],
)
def test_what_does_not_bind_is_refused(names: tuple[str, ...], constants: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Arguments.of(Nests(), specs(*names), constants)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"x": 1}, "'x' is an input and a constant"),
        ({"scale": [1]}, r"must be a number, a text, a bool or None, got \[1\]"),
        ({"scale": 2.0}, "must not be a whole number as a float"),
    ],
)
def test_a_constant_is_a_scalar_that_a_record_can_hold(constants: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Signature(inputs=specs("x"), ranges={"batch": SizeRange()}, constants=constants)


def test_a_signature_without_constants_is_recorded_as_before() -> None:
    plain = Signature(inputs=specs("x"), ranges={"batch": SizeRange()})
    assert "constants" not in to_json(plain)
    full = Signature(inputs=specs("x"), ranges={"batch": SizeRange()}, constants={"a": None, "b": 0.5, "c": True})
    assert from_json(Signature, to_json(full)) == full
