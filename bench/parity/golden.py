"""Golden calls: a few of the reference's calls, with what each value of the answer may differ by.

Whoever has them can judge an artifact anywhere, without the model, torch or this package: per element,

    |answer - expected| <= allowed

where ``expected`` is the float64 answer and ``allowed`` what the parity check would let pass: the largest honest error
times the threshold on its ratio. It is infinite where float32 has no answer (float64 and eager do not agree whether the
element is a number, or another choice would be as good), and 0 where nothing may differ: integers, booleans, NaN and
infinities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.parity.answers import Answers
from bench.parity.cases import Case, Tensors, Values
from bench.parity.levels.error import ErrorTally
from bench.parity.levels.fidelity import REAL_ROWS
from bench.parity.levels.undetermined import CaseSpread
from bench.parity.reference import EAGER, FLOAT64, INPUTS, Reference
from bench.parity.scores import SCORES, load_chosen
from bench.parity.spec import Thresholds
from bench.parity.store import case_file, load_case
from export.arrays import float_limits
from export.signature import Signature

_MOST: dict[str, int] = {"rows": 1, "sizes": 6, "values": 2, "extremes": 3}
"""Calls of each group: the sizes prove the declared ranges, so they are the most."""
_BUDGET_BYTES = 16 << 20
_ROUNDINGS_WITHOUT_FLOAT64 = 64
"""Roundings of the largest value: a guess, used only where there is no float64 answer and the recipe lets that ship."""


@dataclass(frozen=True)
class Golden:
    """One call."""

    case: Case
    inputs: Tensors
    expected: Tensors
    """In float64; in the output's own dtype where that is no float."""
    allowed: Tensors
    """Per element, float32."""
    dtypes: dict[str, str]
    """The dtypes of the artifact's answers."""

    @property
    def real(self) -> bool:
        """Whether the rows are real ones, on which a quantised artifact is judged."""
        return self.case.group in REAL_ROWS


def golden(
    reference: Reference,
    folder: Path,
    signature: Signature,
    limits: Thresholds,
    spreads: Sequence[CaseSpread] = (),
) -> Iterator[Golden]:
    """The chosen calls of the reference in ``folder``, real rows first; one at a time, since they may be large.

    ``spreads`` are the cases that an artifact passed by what equivalents of the model answer: it may differ by as much
    again where it is checked, and cases with rows that nothing determines are left out.
    """
    units = {(spread.group, spread.case, spread.output): spread.largest_unit for spread in spreads}
    left_out = {(spread.group, spread.case) for spread in spreads if spread.undetermined_count}
    tallies = {spec.name: ErrorTally(spec.name) for spec in signature.outputs}
    for index, case in enumerate(reference.cases):
        for name, tally in tallies.items():
            tally.add(_answers(folder, index, case, name))
    inputs = [spec.name for spec in signature.inputs]
    for index in _chosen(reference, folder, left_out, of_each_size=signature.has_draw_functions):
        case = reference.cases[index]
        by_output = {name: _answers(folder, index, case, name) for name in tallies}
        yield Golden(
            case=case,
            inputs=load_case(folder / INPUTS, index, inputs),
            expected={name: answers.wide for name, answers in by_output.items()},
            allowed={
                name: _allowed(
                    answers,
                    _guessed(answers)
                    if reference.failure
                    else max(tallies[name].allowed(case), units.get((case.group, case.name, name), 0.0))
                    * limits.max_peak_ratio,
                )
                for name, answers in by_output.items()
            },
            dtypes={name: str(answers.eager.dtype) for name, answers in by_output.items()},
        )


def _answers(folder: Path, index: int, case: Case, name: str) -> Answers:
    """Eager stands in for the artifact: what is allowed depends on the model alone."""
    wide, eager = (load_case(folder / kind, index, (name,))[name] for kind in (FLOAT64, EAGER))
    chosen = partial(load_chosen, folder / SCORES, index, name)
    return Answers(output=name, case=case, wide=wide, eager=eager, got=eager, chosen=chosen)


def _guessed(answers: Answers) -> float:
    if not answers.floating:
        return 0.0
    largest = float(np.abs(answers.eager[np.isfinite(answers.eager)]).max(initial=0.0))
    return _ROUNDINGS_WITHOUT_FLOAT64 * float(float_limits(answers.eager.dtype).eps) * largest


def _allowed(answers: Answers, most: float) -> Values:
    numbers = np.isfinite(answers.wide) if answers.floating else np.zeros(answers.wide.shape, bool)
    allowed = np.where(numbers, most, 0.0)
    chosen = answers.chosen()
    open_to_choice = np.zeros(answers.wide.shape, bool) if chosen is None else chosen.open(answers.wide)
    return np.where(answers.defined & ~open_to_choice, allowed, np.inf).astype(np.float32)


def _chosen(reference: Reference, folder: Path, left_out: Set[tuple[str, str]], *, of_each_size: bool) -> list[int]:
    """Numbers of the cases, in order of groups, as far as the budget goes; never none.

    ``of_each_size``: real rows in every number that was tested, where no call can be cut to another one.
    """
    sizes = {index: _bytes(folder, index) for index in range(len(reference.cases))}
    chosen: list[int] = []
    for group, most in _MOST.items():
        determined = [
            index for index in reference.indices(group) if (group, reference.cases[index].name) not in left_out
        ]
        if group == "rows" and of_each_size:
            chosen += sorted({str(reference.cases[index].sizes): index for index in reversed(determined)}.values())
        else:
            chosen += _spread(determined, most)
    kept: list[int] = []
    for index in chosen:
        if sum(sizes[earlier] for earlier in kept) + sizes[index] <= _BUDGET_BYTES:
            kept.append(index)
    real = [index for index in range(len(reference.cases)) if reference.cases[index].group in REAL_ROWS]
    if not any(index in real for index in kept):
        kept.insert(0, min(real, key=lambda index: sizes[index]))
    return kept


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """At most so many, the first and the last among them."""
    if len(indices) <= most:
        return list(indices)
    return sorted({indices[round(place)] for place in np.linspace(0, len(indices) - 1, most)})


def _bytes(folder: Path, index: int) -> int:
    """The size of a case's files, with the float64 answers once more for what is allowed."""
    places = (INPUTS, FLOAT64, FLOAT64)
    return sum(case_file(folder / place, index).stat().st_size for place in places)
