"""The trial of what an exporter built: does it answer as the module does, at several sizes and for several inputs?

Coarse on purpose: it is to see a branch, a loop or a size that the exporter fixed to its example's, not rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from export.arrays import Array, dtype_name, to_torch
from export.gradients import call as call_flat
from export.roads import AnswersOtherwiseError
from export.signature import Signature
from export.sizes import Sizes

Answer = Callable[[Sequence[torch.Tensor]], Sequence[Array]]
"""Flat inputs in the signature's order, to flat outputs."""
_SEEDS_COUNT = 6
"""Calls at the example's own sizes."""
_ENOUGH_S = 20.0
"""The module's own answers take no longer than this, give or take a call."""
_RELATIVE = 1e-3
_ROUNDINGS = 32
"""What half precision, whose single rounding is larger than ``_RELATIVE``, may differ by."""
_FEW = 1e-3
"""The share of an output's values that may differ: what stands on a threshold falls to either side."""


@dataclass(frozen=True)
class _Call:
    """One call of the module, and its answer."""

    sizes: Sizes
    seed: int
    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    again: tuple[torch.Tensor, ...]
    """The answer to the same call once more."""

    def fresh(self) -> list[torch.Tensor]:
        """A copy of the inputs: a model may write into its own."""
        return [tensor.clone() for tensor in self.inputs]


class Trial:
    """A module's own answers, computed when they are first asked for and shared by all roads."""

    def __init__(self, flat: Callable[..., tuple[torch.Tensor, ...]], signature: Signature, seed: int) -> None:
        self._flat = flat
        self._signature = signature
        self._seed = seed

    def check(self, answer: Answer) -> None:
        """Compare every call.

        Raises:
            AnswersOtherwiseError: the values differ by more than rounding explains.
            RuntimeError: it raises, or answers with other shapes or dtypes.
        """
        for call in self._calls:
            where = ", ".join(f"{name}={size}" for name, size in call.sizes.items()) or "the declared sizes"
            try:
                outputs = answer(call.fresh())
            except Exception as error:  # noqa: BLE001 - runtimes raise anything; the words are kept
                raise RuntimeError(f"called with {where} it raises {_first_line(error)}") from None
            answers = [to_torch(output) for output in outputs]
            _compare_kinds(call, answers, self._signature.output_names)
            if self._is_repeatable:
                _compare_values(call, answers, self._signature.output_names, where)

    @cached_property
    def _is_repeatable(self) -> bool:
        """Whether the module answers every call twice the same way: of a random one only the kinds are compared."""
        return all(_same(*pair) for call in self._calls for pair in zip(call.outputs, call.again, strict=True))

    @cached_property
    def _calls(self) -> list[_Call]:
        """Those that the module itself answers; a model may refuse sizes or values that its signature lets pass."""
        calls: list[_Call] = []
        deadline = time.monotonic() + _ENOUGH_S
        for number, sizes in enumerate(_several(self._signature)):
            if calls and time.monotonic() > deadline:
                break
            seed = self._seed + number
            inputs = tuple(to_torch(array) for array in self._signature.example(sizes, seed).values())
            try:
                first, second = self._answer(inputs), self._answer(inputs)
            except Exception:  # noqa: BLE001, S112 - the module is the user's
                continue
            calls.append(_Call(sizes, seed, inputs, first, second))
        return calls

    def _answer(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(output.clone() for output in call_flat(self._flat, [tensor.clone() for tensor in inputs]))


def _several(signature: Signature) -> Iterator[dict[str, int]]:
    """The example's sizes for several seeds; smaller and larger ones of each dimension, and of all together."""
    example = signature.example_sizes()
    smallest = {name: bounds.min for name, bounds in signature.ranges.items()}
    larger = {name: bounds.fit(2 * example[name] + bounds.multiple) for name, bounds in signature.ranges.items()}
    several = [example, smallest, larger]
    for name, bounds in signature.ranges.items():
        choices = (smallest[name], bounds.fit(example[name] + bounds.multiple), larger[name])
        several += [example | {name: size} for size in choices]
    several += signature.ones(example)
    distinct = [dict(sizes) for sizes in dict.fromkeys(tuple(sizes.items()) for sizes in several)]
    yield from distinct
    yield from [example] * (_SEEDS_COUNT - 1)
    yield from distinct[1:]  # once more, with other values


def _compare_kinds(call: _Call, outputs: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    if len(outputs) != len(call.outputs):
        raise RuntimeError(f"{len(outputs)} outputs, the model has {len(call.outputs)}")
    for name, wanted, output in zip(names, call.outputs, outputs, strict=True):
        if (dtype_name(output), output.ndim) != (dtype_name(wanted), wanted.ndim):
            raise RuntimeError(
                f"{name} is {dtype_name(output)} of rank {output.ndim}, "
                f"the model's is {dtype_name(wanted)} of rank {wanted.ndim}"
            )


def _compare_values(call: _Call, outputs: Sequence[torch.Tensor], names: Sequence[str], where: str) -> None:
    for name, wanted, output in zip(names, call.outputs, outputs, strict=True):
        if output.shape != wanted.shape:
            raise RuntimeError(f"{name} has shape {list(output.shape)} with {where}, the model's {list(wanted.shape)}")
        if (share := _share_off(wanted, output)) > _FEW:
            raise AnswersOtherwiseError(
                f"answers otherwise than the model: {share:.3g} of {name}'s values with {where} and seed {call.seed}"
            )


def _share_off(wanted: torch.Tensor, output: torch.Tensor) -> float:
    """The share of values that differ by more than rounding explains."""
    if wanted.numel() == 0:
        return 0.0
    if not wanted.is_floating_point():
        return float((wanted != output).double().mean())
    tolerance = max(_RELATIVE, _ROUNDINGS * torch.finfo(wanted.dtype).eps)
    finite = wanted[wanted.isfinite()].double().abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    near = torch.isclose(output.double(), wanted.double(), rtol=tolerance, atol=tolerance * largest, equal_nan=True)
    return float((~near).double().mean())


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and _share_off(first, second) <= _FEW


def _first_line(error: Exception) -> str:
    """The last line of TorchScript's message is the error; its first is a traceback's heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "TorchScript interpreter" in lines[0]:
        lines = lines[-1:]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
