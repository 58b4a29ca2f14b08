"""Structure: every call is answered, with shapes and dtypes, and NaN and Inf exactly where float64 has them.

Integers and booleans must be equal. Judged against float64, not eager, which can itself be the odd one (its GELU of Inf
is NaN). Where the two disagree the element is undefined in float32: counted, and neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from bench.parity.answers import Answers
from bench.parity.cases import Group
from bench.parity.check import Check
from bench.parity.levels.decisions import explained_choices
from bench.parity.levels.level import Context, PerOutput

_TIMES_EAGER = 4
"""Integers and booleans may differ from float64 in as many elements, in multiples of those in which eager does."""
_FAULTS_SHOWN = 3
NON_FINITE: Group = "non-finite"
"""The group of cases that is a level of its own."""


class StructureTally:
    """What is wrong with the form of one output, gathered case by case."""

    def __init__(self, output: str) -> None:
        self._output = output
        self.undefined_count = 0
        """Elements on which float64 and eager float32 do not agree whether they are finite."""
        self.compared_count = 0
        """Elements of integer and boolean outputs that were compared."""
        self._faults: list[tuple[str, str]] = []
        """Name of the case, and what is wrong in it."""
        self._unequal: list[tuple[str, str]] = []
        self._unequal_count = self._unequal_in_eager_count = 0

    def add(self, answers: Answers) -> None:
        """Add one case."""
        case = answers.case.name
        if (malformed := answers.malformed) is not None:
            self._faults.append((case, malformed))
            return
        self.undefined_count += int((~answers.defined).sum())
        if not answers.floating:
            self.compared_count += int(answers.defined.sum())
        if answers.case.group == NON_FINITE:
            return
        if answers.floating:
            self._faults += [(case, fault) for fault in misplaced(answers)]
            return
        unequal_count = unequal_elements(answers)
        if unequal_count:
            self._unequal.append((case, _unequal(answers, unequal_count)))
        self._unequal_count += unequal_count
        self._unequal_in_eager_count += int((answers.eager != answers.wide).sum())

    def checks(self) -> list[Check]:
        """Whether it is as declared, in every case."""
        unequal = self._unequal if self._unequal_count > _TIMES_EAGER * self._unequal_in_eager_count else []
        faults = [*self._faults, *unequal]
        undefined = f"; {self.undefined_count} elements are undefined in float32" if self.undefined_count else ""
        shown = "; ".join(fault for _, fault in faults[:_FAULTS_SHOWN])
        return [
            Check(
                level=Structure.name,
                subject=self._output,
                status="fail" if faults else "pass",
                message=shown or f"as declared in every case{undefined}",
                cases=tuple(dict.fromkeys(case for case, _ in faults)),
                value=float(len(faults)),
                limit=0.0,
            )
        ]


class Structure(PerOutput[StructureTally]):
    """The form of ordinary answers."""

    name = "structure"
    meaning = "every call is answered, with the right names, shapes and dtypes; NaN and Inf where float64 has them"
    takes_malformed = True
    tally = StructureTally

    def checks(self, context: Context) -> Iterable[Check]:
        """Cases that were refused, then the form of every output."""
        yield from context.refused(self.name, "rows")
        for output in context.outputs:
            yield from self.of(output).checks()


def misplaced(answers: Answers) -> Iterator[str]:
    """What is wrong with where a floating output has NaN and Inf."""
    where, size = f"{answers.output} ({answers.case.name})", answers.got.size
    finite = np.isfinite(answers.wide) & answers.defined
    if count := int((~np.isfinite(answers.got) & finite).sum()):
        yield f"{where}: {count} of {size} values are not finite where float64 is"
    special = ~np.isfinite(answers.wide) & answers.defined
    equal = (answers.got == answers.wide) | (np.isnan(answers.got) & np.isnan(answers.wide))
    if count := int((~equal & special).sum()):
        yield f"{where}: {count} of {size} values should be NaN or Inf as float64 has them"


def unequal_elements(answers: Answers) -> int:
    """How many elements of an integer or boolean output differ, choices between equals left out."""
    if np.array_equal(answers.got, answers.wide):
        return 0
    judged = answers.defined & ~answers.as_good & ~explained_choices(answers.wide, answers.got, answers.scores())
    return int((answers.got != answers.wide)[judged].sum())


def _unequal(answers: Answers, count: int) -> str:
    return f"{answers.output} ({answers.case.name}): {count} of {answers.got.size} values differ"
