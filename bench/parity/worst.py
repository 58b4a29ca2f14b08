"""Where an artifact is farthest off: the row, what went in, what should have come out, and what did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.parity.answers import Answers, apart
from bench.parity.cases import Case, Tensors, Values
from bench.parity.check import Check
from bench.parity.store import load_case
from export.signature import Signature

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


def farthest(
    checks: Sequence[Check],
    cases: Sequence[tuple[int, Case]],
    signature: Signature,
    inputs: Path,
    answers: Callable[[int, str], Answers],
) -> Worst | None:
    """The worst element of the first case in which a finding fails by its values; None if there is none.

    ``cases`` are those that the artifact answered, by number; ``inputs`` is the folder of what went in.
    """
    numbers = {case.name: number for number, case in reversed(cases)}
    rows = frozenset(spec.name for spec in signature.inputs if signature.batch in spec.shape[:1])
    failing = [(check.subject, numbers.get(case)) for check in checks if check.status == "fail" for case in check.cases]
    for subject, number in dict.fromkeys(failing):
        if number is None:
            continue
        fed = load_case(inputs, number, [spec.name for spec in signature.inputs])
        for name in (subject,) if subject in signature.output_names else signature.output_names:
            if (worst := worst_element(answers(number, name), fed, rows)) is not None:
                return worst
    return None


def worst_element(answers: Answers, inputs: Tensors, rows: frozenset[str]) -> Worst | None:
    """The element that is farthest from float64; None if all agree, or the answer has another shape.

    ``rows`` are the inputs whose first dimension counts the same rows.
    """
    wide, got = answers.wide, answers.got
    if got.shape != wide.shape or not wide.size:
        return None
    distance = apart(got, wide)
    if not distance.max() > 0:
        return None
    place = np.unravel_index(int(distance.argmax()), wide.shape)
    row, element = (int(place[0]), tuple(map(int, place[1:]))) if place else (0, ())
    expected, eager, artifact = (f"{values[place]:.9g}" for values in (wide, answers.eager, got))
    return Worst(
        output=answers.output,
        case=answers.case.name,
        row=row,
        element=element,
        expected=expected,
        eager=eager,
        got=artifact,
        inputs={name: _shown(values[row] if name in rows else values) for name, values in inputs.items()},
    )


def _shown(values: Values) -> str:
    flat = np.asarray(values).reshape(-1)
    shown = ", ".join(f"{value:.6g}" for value in flat[:_SHOWN_COUNT].tolist())
    return f"[{shown}, ...] ({flat.size} values)" if flat.size > _SHOWN_COUNT else f"[{shown}]"
