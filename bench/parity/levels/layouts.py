"""Layouts: the same values in another memory layout must give the same bits; code that ignores strides misreads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from bench.parity.cases import Tensors, Values
from bench.parity.check import Check
from bench.parity.levels.determinism import call_again, difference
from bench.parity.levels.level import Inside, Level
from export.arrays import Array, to_torch
from export.backend import Runner
from export.device import Device


class Layouts(Level):
    """Transposed, strided and expanded inputs."""

    name = "layouts"
    meaning = "transposed, strided and expanded inputs"

    def observe(self, inside: Inside) -> Iterable[Check]:
        """Unchecked where answers differ from call to call anyway."""
        if inside.inputs is None:
            return []
        if call_again(inside.runner, inside.inputs) is not None:
            message = "answers differ from call to call, so that layouts cannot be compared"
            return [Check(level=self.name, subject="inputs", status="unchecked", message=message)]
        return layouts(inside.runner, inside.inputs)


def layouts(runner: Runner, inputs: Tensors) -> list[Check]:
    """One check per layout that differs from the ordinary one for these shapes."""
    checks = []
    for name, lay in _LAYOUTS.items():
        laid = {key: lay(array) for key, array in inputs.items()}
        if all(laid[key].strides == array.strides for key, array in inputs.items()):
            continue
        plain = {key: np.array(array, order="C") for key, array in laid.items()}
        expected = runner(plain)
        differences = {
            kind: difference(expected, runner(given))
            for kind, given in (("NumPy", laid), ("torch", _as_torch(laid, runner.device)))
        }
        wrong = "; ".join(f"{kind} inputs: {what}" for kind, what in differences.items() if what)
        checks.append(
            Check(
                level="layouts",
                subject=name,
                status="fail" if wrong else "pass",
                message=f"{name} inputs are misread: {wrong}" if wrong else "the same bits as contiguous ones",
            )
        )
    return checks


def _transposed(array: Values) -> Values:
    """The same values, in memory in the opposite order."""
    return np.asfortranarray(array) if array.ndim >= 2 else array


def _strided(array: Values) -> Values:
    """The same values, every second element of a larger array."""
    if array.ndim == 0:
        return array
    wide = np.repeat(array, 2, axis=-1)
    wide[..., 1::2] = 0
    return wide[..., ::2]


def _expanded(array: Values) -> Values:
    """The first row, for all rows, without a copy."""
    return np.broadcast_to(array[:1], array.shape) if array.ndim and len(array) > 1 else array


_LAYOUTS: dict[str, Callable[[Values], Values]] = {
    "transposed": _transposed,
    "strided": _strided,
    "expanded": _expanded,
}


def _as_torch(arrays: Mapping[str, Values], where: Device) -> dict[str, Array]:
    """The arrays as tensors with the same strides."""
    import torch

    tensors: dict[str, Array] = {}
    for name, array in arrays.items():
        plain = np.array(array, order="C")
        tensor = to_torch(plain, where)
        steps = [stride // array.itemsize for stride in array.strides]
        if 0 in steps:
            tensor = tensor[:1].expand(tensor.shape)
        elif array.strides != plain.strides and array.size:
            room = 1 + sum((size - 1) * step for size, step in zip(array.shape, steps, strict=True))
            laid = torch.zeros(room, dtype=tensor.dtype, device=tensor.device).as_strided(array.shape, steps)
            tensor = laid.copy_(tensor)
        tensors[name] = tensor
    return tensors
