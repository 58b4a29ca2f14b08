"""Weights that a compiler has written into its code (Inductor does so with the smallest) are read from the answers.

Near the right weights, an artifact's error is the model's derivative by each weight times how far that weight is off,
plus rounding. Derivatives are taken in float64 from the traced program, one weight at a time; least squares over all
rows then says how far each is off, and how surely. A weight fails if it is off by more than rounding and by more than
the estimate's own uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench.parity.cases import Tensors, Values
from export.arrays import is_floating, to_numpy, to_torch
from export.float64 import Float64Program, to_float64

Call = tuple[Tensors, Tensors, Tensors]
"""Inputs, float64 answers, the artifact's answers."""
MOST_ELEMENTS = 256
_MOST_DERIVATIVES = 1 << 21
"""Weights times values of the answers: calls that would make more are not asked."""
_STEP = 1e-6
_ROUNDINGS = 16.0
_STANDARD_ERRORS = 10.0


@dataclass(frozen=True)
class Probed:
    """What the answers say of some weights."""

    off: dict[str, float]
    """By name: how far a weight is off, relative to the largest of its tensor; only those that fail."""
    sharpness: float
    """The largest relative error that would have passed."""
    without_influence: tuple[str, ...]
    """Weights that no answer depends on."""


def probe(
    exported: torch.export.ExportedProgram,
    weights: Mapping[str, Values],
    calls: Sequence[Call],
) -> Probed:
    """How far the artifact's ``weights`` are off; ``calls`` hold inputs, float64 answers and the artifact's answers."""
    calls = few_calls(calls, _MOST_DERIVATIVES // sum(weight.size for weight in weights.values()))
    program = Float64Program(exported)
    held = dict(program.module.state_dict())
    inputs = [[to_float64(to_torch(array)) for array in given.values()] for given, _, _ in calls]
    truth = [_flat(wide.values()) for _, wide, _ in calls]
    errors = np.concatenate([_flat(got.values()) - wide for (_, _, got), wide in zip(calls, truth, strict=True)])
    errors[~np.isfinite(errors)] = 0.0

    def answers() -> Values:
        with torch.inference_mode():
            return np.concatenate([_flat(map(to_numpy, program.run(*given))) for given in inputs])

    at_rest = answers()
    columns, names = [], []
    for name, weight in weights.items():
        tensor = held[f"module.{name}"].view(-1)
        scale = float(np.abs(weight).max(initial=0.0)) or 1.0
        for index in range(weight.size):
            columns.append(_derivative(tensor, index, _STEP * scale, at_rest, answers) * scale)
            names.append(name)
    return _solve(np.stack(columns, axis=1), errors, names)


def few_calls(calls: Sequence[Call], most_values: int) -> list[Call]:
    """The smallest calls whose float64 answers hold no more values together; the smallest, if that alone holds more.

    Each weight costs a run of the program over all of them.
    """

    def size(call: Call) -> int:
        return sum(array.size for array in call[1].values())

    few: list[Call] = []
    for call in sorted(calls, key=size):
        if few and sum(map(size, (*few, call))) > most_values:
            break
        few.append(call)
    return few


def _derivative(
    tensor: torch.Tensor, index: int, step: float, at_rest: Values, answers: Callable[[], Values]
) -> Values:
    before = tensor[index].item()
    with torch.no_grad():
        tensor[index] = before + step
        moved = answers()
        tensor[index] = before
    change = (moved - at_rest) / step
    change[~np.isfinite(change)] = 0.0
    return change


def _solve(columns: Values, errors: Values, names: Sequence[str]) -> Probed:
    """Least squares; directions that the answers cannot tell apart share what is off between them."""
    sizes = np.linalg.norm(columns, axis=0)
    moving = sizes > 0
    matrix = columns[:, moving] / sizes[moving]
    inverse = np.linalg.pinv(matrix.T @ matrix, rcond=1e-9)
    solution = inverse @ (matrix.T @ errors)
    left = errors - matrix @ solution
    noise = np.sqrt(float(left @ left) / max(len(errors) - len(solution), 1) * np.diag(inverse).clip(0))
    off, uncertainty = solution / sizes[moving], noise / sizes[moving]
    u = float(np.finfo(np.float32).eps) / 2
    limit = np.maximum(_ROUNDINGS * u, _STANDARD_ERRORS * uncertainty)
    kept = [name for name, moves in zip(names, moving, strict=True) if moves]
    wrong: dict[str, float] = {}
    for name, value, most in zip(kept, off, limit, strict=True):
        if abs(value) > most:
            wrong[name] = max(abs(float(value)), wrong.get(name, 0.0))
    idle = set(names) - set(kept)
    return Probed(wrong, float(limit.max(initial=0.0)), tuple(sorted(idle)))


def _flat(arrays: Iterable[Values]) -> Values:
    """All floating values of a call, one after the other."""
    return np.concatenate([array.astype(np.float64).ravel() for array in arrays if is_floating(array.dtype)])
