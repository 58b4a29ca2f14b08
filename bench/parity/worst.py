"""Where an artifact is farthest off: the row, what went in, what should have come out, and what did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.parity.answers import apart
from bench.parity.cases import Tensors, Values

_SHOWN_COUNT = 8
"""Values of an input that are written out."""


@dataclass(frozen=True, kw_only=True)
class Worst:
    """One element of one output; numbers as text, since they may be no numbers."""

    output: str
    case: str
    row: int
    """Along the first dimension; 0 where there is none."""
    element: tuple[int, ...]
    """The index within the row."""
    expected: str
    """Float64's answer."""
    eager: str
    got: str
    inputs: dict[str, str]
    """By name: the row's values, or where an input has no such row all of them; the first of many."""

    @property
    def text(self) -> str:
        """One line."""
        place = f"{self.output}[{', '.join(map(str, (self.row, *self.element)))}] of {self.case}"
        fed = "; ".join(f"{name} = {values}" for name, values in self.inputs.items())
        return f"{place}: expected {self.expected}, eager {self.eager}, got {self.got}; for {fed}"


def worst_element(
    output: str, case: str, inputs: Tensors, row_inputs: frozenset[str], answers: Mapping[str, Values]
) -> Worst | None:
    """The element that is farthest from float64; None if all agree, or the answer has another shape.

    ``answers`` are those of ``float64``, ``eager`` and ``artifact``; ``row_inputs`` the inputs with the same rows.
    """
    wide, got = answers["float64"], answers["artifact"]
    if got.shape != wide.shape or not wide.size:
        return None
    distance = apart(got, wide)
    if not distance.max() > 0:
        return None
    place = np.unravel_index(int(distance.argmax()), wide.shape)
    row, element = (int(place[0]), tuple(map(int, place[1:]))) if place else (0, ())
    fed = {name: _shown(values[row] if name in row_inputs else values) for name, values in inputs.items()}
    expected, eager, artifact = (f"{answers[who][place]:.9g}" for who in ("float64", "eager", "artifact"))
    return Worst(
        output=output, case=case, row=row, element=element, expected=expected, eager=eager, got=artifact, inputs=fed
    )


def _shown(values: Values) -> str:
    flat = np.asarray(values).reshape(-1)
    shown = ", ".join(f"{value:.6g}" for value in flat[:_SHOWN_COUNT].tolist())
    return f"[{shown}, ...] ({flat.size} values)" if flat.size > _SHOWN_COUNT else f"[{shown}]"
