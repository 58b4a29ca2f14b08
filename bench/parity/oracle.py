"""The model's own answers: in float64, which is the truth, and in eager float32, which shows what honest error is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.parity.answers import apart
from bench.parity.cases import Tensors
from export.arrays import Array, is_floating, numpy_dtype, to_numpy, to_torch
from export.device import device
from export.flat import FlatModule
from export.float64 import AsTraced, Float64Program, Unguarded, double_precision, to_float64
from export.gradients import call
from export.program import load_exported
from export.signature import Signature

if TYPE_CHECKING:
    from torch import nn

Flat = Callable[..., Sequence[torch.Tensor]]
_FLOAT64_NOISE = 1e-10
"""A relative difference that rounding in float64 makes, at most."""
_OF_CASTS = 4.0
"""Times the difference that casts make, up to which a difference may be theirs."""
_ROUNDINGS, _ROUNDINGS_OF_OTHER_KERNELS = 4.0, 64.0
"""Roundings by which a module and its program differ at most where they run the same operators; where the tracer has
put others in their place."""
_PERCEPTIBLE = 0.01
"""More than four roundings in half precision may make: what is farther apart is another function."""
_OTHERWISE = 1e-8
"""A relative difference from which on a program computes something else, as far as narrower floats can tell."""
OTHERWISE = (
    "the traced program computes something else than the model: its {} to the example differs by {:.2g} of the "
    "largest value"
)


class Oracle:
    """Answers one case after the other; a model with state therefore meets them in the same order as an artifact.

    Float64 answers come from the module itself; where it does not run in float64 throughout (it casts inside), from
    its traced program with the casts widened; else there are none, and ``failure`` says why. A program that differs
    from the module by more than its casts do computes something else: nothing is taken from it.
    """

    def __init__(self, module: nn.Module, signature: Signature, where: str, program_file: Path | None) -> None:
        self.device = device(where)
        self.device.strict_float32()
        self.signature = signature
        self.program_file = program_file
        self.module = module.eval()
        self._eager = FlatModule(copy.deepcopy(module).to(self.device.torch_name), signature)
        self.float64_by: str | None = None
        self.failure: str | None = None
        self.program_differs: str | None = None
        """How the program is another function; None if it is not, as far as one can tell."""
        self.program_compared = False
        """Whether the program answered the example beside the module."""
        self._wide: Flat | None = None
        self._choose(module)

    def answer(self, inputs: Tensors) -> tuple[dict[str, Array], dict[str, Array]]:
        """Outputs by name: eager's, and float64's (eager's own where there is no float64)."""
        eager = self._named(self._eager, [to_torch(array, self.device) for array in self._ordered(inputs)])
        if self._wide is None:
            return eager, eager
        return eager, self._named(self._wide, [to_float64(to_torch(array)) for array in self._ordered(inputs)])

    def eager(self, inputs: Tensors, module: nn.Module | None = None) -> Tensors:
        """Eager float32 outputs of the module, or of another one in its place."""
        flat = FlatModule(module.to(self.device.torch_name), self.signature) if module is not None else self._eager
        named = self._named(flat, [to_torch(array, self.device) for array in self._ordered(inputs)])
        return {name: to_numpy(array) for name, array in named.items()}

    def wide(self, inputs: Tensors) -> Tensors:
        """Float64 outputs; only where there is a float64 answer."""
        assert self._wide is not None
        named = self._named(self._wide, [to_float64(to_torch(array)) for array in self._ordered(inputs)])
        return {name: to_numpy(array) for name, array in named.items()}

    @property
    def has_moved(self) -> bool:
        """Whether the calls have changed the model's state: a fresh copy then answers otherwise."""
        before, now = self.module.state_dict(), self._eager.module.state_dict()
        return any(not torch.equal(self.device.move(tensor), now[name]) for name, tensor in before.items())

    def _ordered(self, inputs: Tensors) -> list[Array]:
        return [inputs[spec.name] for spec in self.signature.inputs]

    def _named(self, flat: Flat, tensors: Sequence[torch.Tensor]) -> dict[str, Array]:
        outputs = call(flat, [tensor.clone() for tensor in tensors])  # forward may write into what it is given
        return dict(zip(self.signature.output_names, [output.cpu() for output in outputs], strict=True))

    def _choose(self, module: nn.Module) -> None:
        """Try who can answer the example in float64, from beginning to end."""
        example = self._ordered(self.signature.example(self.signature.example_sizes(), seed=0))
        answers: dict[str, Sequence[torch.Tensor]] = {}
        reasons = []
        makers: dict[str, Callable[[], Flat]] = {
            "module": lambda: FlatModule(double_precision(copy.deepcopy(module)), self.signature),
            "program": self._float64_program,
        }
        for who, make in makers.items():
            try:
                answers[who] = call(make(), _tensors(example, wide=True))
            except Exception as error:  # noqa: BLE001 - custom operators refuse float64 in their own ways; the reason is recorded
                reasons.append(f"the {who} does not run in float64: {type(error).__name__}: {error}"[:300])
                continue
            if narrow := self._narrow(answers[who]):
                reasons.append(f"the {who} casts its output {narrow} to a narrower type inside")
                del answers[who]
        if answers.keys() == makers.keys():
            self.program_compared = True
            difference = _largest_difference(answers["module"], answers["program"])
            if difference > _FLOAT64_NOISE and self._is_the_model(difference, answers["program"], example):
                del answers["module"]
            elif difference > _OTHERWISE:
                self._leave_out_the_program("float64 answer", difference)
        elif "program" in answers:
            self.program_compared = True
            farther = [
                difference
                for difference, eps in self._as_they_are(example)
                if difference > min(_ROUNDINGS_OF_OTHER_KERNELS * eps, max(_ROUNDINGS * eps, _PERCEPTIBLE))
            ]
            if farther:
                reasons.append(self._leave_out_the_program("answer", max(farther)))
                del answers["program"]
        if "module" in answers:
            self.float64_by = "module"
        elif "program" in answers:
            self.float64_by = "program"
        else:
            self.failure = "; ".join(reasons)
            return
        self._wide = makers[self.float64_by]()  # a fresh one: the example may have moved its state

    def _float64_program(self) -> Flat:
        if self.program_file is None:
            raise FileNotFoundError("the model could not be traced")
        return Float64Program(load_exported(self.program_file))

    def _leave_out_the_program(self, answer: str, difference: float) -> str:
        self.program_file = None
        self.program_differs = OTHERWISE.format(answer, difference)
        return self.program_differs

    def _is_the_model(self, difference: float, in_float64: Sequence[torch.Tensor], example: Sequence[Array]) -> bool:
        """Whether a program that differs from the module in float64 by ``difference`` computes the model's function.

        It does where its casts explain the difference; and where the two agree as they are: the module then asks for
        its dtype (``torch.finfo(x.dtype)``), and is another function in float64.
        """
        assert self.program_file is not None
        casts = AsTraced(load_exported(self.program_file))
        try:
            as_traced = call(casts.run, _tensors(example, wide=True))
        except Exception:  # noqa: BLE001 - it does not run so, and nothing is known of it
            return False
        if difference <= _OF_CASTS * _largest_difference(as_traced, in_float64):
            return True
        return all(difference <= _ROUNDINGS * eps for difference, eps in self._as_they_are(example))

    def _as_they_are(self, example: Sequence[Array]) -> list[tuple[float, float]]:
        """How far each output of module and program are apart in the dtypes that they have, and its unit of roundings.

        Infinitely far where the program does not run so.
        """
        assert self.program_file is not None
        module = call(FlatModule(copy.deepcopy(self.module), self.signature), _tensors(example))
        units = [torch.finfo(output.dtype).eps if output.is_floating_point() else 0.0 for output in module]
        try:
            program = call(Unguarded(load_exported(self.program_file).module()).run, _tensors(example))
        except Exception:  # noqa: BLE001 - operators refuse in their own ways
            return [(math.inf, eps) for eps in units]
        return [(_difference(*pair), eps) for *pair, eps in zip(module, program, units, strict=True)]

    def _narrow(self, outputs: Sequence[torch.Tensor]) -> str | None:
        """The first floating output that is not in float64."""
        return next(
            (
                spec.name
                for spec, output in zip(self.signature.outputs, outputs, strict=True)
                if is_floating(numpy_dtype(spec.dtype)) and output.dtype != torch.float64
            ),
            None,
        )


def _tensors(arrays: Sequence[Array], *, wide: bool = False) -> list[torch.Tensor]:
    """Tensors of their own, which ``forward`` may write into; the floating ones in float64 if ``wide``."""
    tensors = [to_torch(array).clone() for array in arrays]
    return [to_float64(tensor) for tensor in tensors] if wide else tensors


def _largest_difference(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    """The largest difference of two answers, relative to the largest value of its column over all rows of its output.

    Infinite where shapes, integers or booleans differ.
    """
    return max(map(_difference, first, second), default=0.0)


def _difference(first: torch.Tensor, second: torch.Tensor) -> float:
    if first.shape != second.shape:
        return math.inf
    if first.is_complex() and second.is_complex():
        first, second = torch.view_as_real(first), torch.view_as_real(second)
    wide = to_numpy(first)
    sizes = np.abs(wide.astype(np.float64))
    sizes = np.where(np.isfinite(sizes), sizes, 0.0).max(axis=0 if wide.ndim > 1 else None, keepdims=True, initial=0.0)
    return float((apart(to_numpy(second), wide) / np.where(sizes == 0, 1.0, sizes)).max(initial=0.0))
