"""Determinism: the same call again, here and (bench/parity/fresh.py) in fresh processes. Reported: a model with state
differs by design, and the level ``calls`` judges that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from bench.parity.cases import Tensors
from bench.parity.check import Check
from bench.parity.levels.level import Inside, Level
from export.arrays import Array, to_numpy
from export.backend import Runner

_REPEATS = 5


class Determinism(Level):
    """The same call again."""

    name = "determinism"
    meaning = "the same call again"

    def observe(self, inside: Inside) -> Iterable[Check]:
        """In this process."""
        if inside.inputs is None:
            return []
        differing = call_again(inside.runner, inside.inputs)
        return [
            Check(
                level=self.name,
                subject=f"{_REPEATS} more calls",
                status="reported" if differing else "pass",
                message=differing or "bitwise the same",
            )
        ]


def call_again(runner: Runner, inputs: Tensors) -> str | None:
    """How the answers of more calls differ from the first one's; None if they are the same bits."""
    first = runner(inputs)
    return next(filter(None, (difference(first, runner(inputs)) for _ in range(_REPEATS))), None)


def difference(first: Mapping[str, Array], second: Mapping[str, Array]) -> str | None:
    """In a few words, how two answers differ; None if they are the same bits."""
    for name, array in first.items():
        a, b = to_numpy(array), to_numpy(second[name])
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{name} is {b.dtype}{list(b.shape)}, was {a.dtype}{list(a.shape)}"
        if a.tobytes() != b.tobytes():
            count = int((a != b).sum())
            largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) if a.dtype != bool else 1.0
            return f"{count} of {a.size} values of {name} differ, by {largest:.3g} at most"
    return None
