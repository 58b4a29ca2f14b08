"""Inputs and outputs are bound by name: what a signature calls them decides, never their order."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from export.arguments import Arguments, Input
from export.completion import complete
from export.errors import UserError
from export.flat import FlatModule, flatten, name_outputs, refill
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
