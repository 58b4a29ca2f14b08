"""Inputs and outputs are bound by name and path: what a signature calls them decides, never their order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from export.arguments import Arguments, Input
from export.completion import complete
from export.errors import UserError
from export.flat import FlatModule, flatten, name_outputs, refill
from export.record import from_json, to_json
from export.signature import Signature, SizeRange, TensorSpec


class Subtracts(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        return left - right if scale is None else (left - right) * scale


class Named(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"double": 2 * x, "half": x / 2}


class Pair(NamedTuple):
    low: torch.Tensor
    high: torch.Tensor


def specs(*names: str, **more: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", ("batch",), **more) for name in names)


def signature(*inputs: str, outputs: tuple[str, ...] = ()) -> Signature:
    return Signature(inputs=specs(*inputs), output_names=outputs, ranges={"batch": SizeRange()})


def test_inputs_go_to_the_parameters_of_their_names() -> None:
    right, left = torch.tensor([1.0]), torch.tensor([5.0])
    (answer,) = FlatModule(Subtracts(), signature("right", "left"))(right, left)
    assert answer.tolist() == [4.0]


def test_by_position_the_answer_would_be_another() -> None:
    """The twin: what binding in the signature's order computed."""
    assert Subtracts()(torch.tensor([1.0]), torch.tensor([5.0])).tolist() == [-4.0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (("left", "mask"), "no parameter is called 'mask'; nothing is given for 'right'"),
        (("left",), "nothing is given for 'right'"),
        (("left", "right", "scale", "more"), "no parameter is called 'more'"),
    ],
)
def test_what_does_not_bind_is_refused_with_both_lists(inputs: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        complete(Subtracts(), signature(*inputs), seed=0)
    assert ", ".join(inputs) in str(error.value)
    assert "forward(left:" in str(error.value)


def test_a_lone_input_is_the_lone_parameter_whatever_it_is_called() -> None:
    assert FlatModule(Named(), signature("image"))(torch.tensor([2.0]))[0].tolist() == [4.0]


def test_a_gap_before_a_parameter_is_passed_by_keyword() -> None:
    class Optional(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, shift: float = 0.0, y: Any = None) -> Any:
            return x + y

    assert Arguments.of(Optional(), specs("x", "y")) == Arguments(positional=(Input(0),), keywords={"y": Input(1)})


def test_further_positional_and_keyword_arguments_are_bound() -> None:
    class AnyNumber(nn.Module):
        def forward(self, *many: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
            return sum(many[1:], many[0]) * named["scale"]

    inputs = (*specs("a", "b"), *specs("scale", keyword=True))
    assert Arguments.of(AnyNumber(), inputs) == Arguments(positional=(Input(0), Input(1)), keywords={"scale": Input(2)})


def test_outputs_have_the_names_that_the_model_gives_them() -> None:
    outputs = FlatModule(Named(), signature("x", outputs=("half", "double"))).named(torch.tensor([2.0]))
    assert {name: tensor.item() for name, tensor in outputs.items()} == {"half": 1.0, "double": 4.0}
    assert list(outputs) == ["half", "double"]


def test_output_names_that_the_model_does_not_return_are_refused_with_both_lists() -> None:
    with pytest.raises(UserError, match=re.escape("['double', 'half'], got ['logits', 'boxes']")):
        complete(Named(), signature("x", outputs=("logits", "boxes")), seed=0)


def test_a_tuple_is_named_by_order_and_a_named_tuple_by_name() -> None:
    a, b = torch.tensor(1.0), torch.tensor(2.0)
    assert name_outputs((a, b), ("high", "low")) == {"high": a, "low": b}
    assert name_outputs(Pair(low=a, high=b), ("high", "low")) == {"high": b, "low": a}


def test_refilling_by_name_undoes_flattening() -> None:
    a, b, c = (torch.tensor(float(number)) for number in range(3))
    result = {"pair": Pair(low=a, high=b), "more": [c, None]}
    again = refill(result, dict(reversed(flatten(result).items())))
    assert again == result


def test_a_scripted_module_is_bound_by_its_schema() -> None:
    from tests.export.test_flat import Subtracts as Scripted

    scripted = torch.jit.freeze(torch.jit.script(Scripted().eval()))
    (answer,) = FlatModule(scripted, signature("right", "left"))(torch.tensor([1.0]), torch.tensor([5.0]))
    assert answer.tolist() == [4.0]


def test_an_output_that_is_called_as_an_input_is_told_apart() -> None:
    class Denoiser(nn.Module):
        def forward(self, sample: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sample": sample * 2, "scale": sample.sum()}

    completed = complete(Denoiser(), signature("sample"), seed=0)
    assert completed.output_names == ("sample_output", "scale")
    assert FlatModule(Denoiser(), completed)(torch.tensor([1.0]))[0].tolist() == [2.0]


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
def test_what_does_not_bind_to_what_is_nested_is_refused(
    names: tuple[str, ...], constants: dict[str, Any], message: str
) -> None:
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
