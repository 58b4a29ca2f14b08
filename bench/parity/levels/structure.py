"""Structure: shapes, dtypes, and NaN and Inf exactly where float64 has them (or integers and booleans equal).

Judged against float64, not eager, which can itself be the odd one (its GELU of Inf is NaN). Where the two disagree the
element is undefined in float32: counted, and neither right nor wrong. Non-finite inputs are a level of their own: what
runtimes do with them differs by design, and matters only to a model that declares such inputs.
"""

from __future__ import annotations

import numpy as np

from bench.parity.answers import Answers
from bench.parity.cases import Case, Values
from bench.parity.check import Check, CheckStatus

_TIMES_EAGER = 4
"""Integers and booleans may differ from float64 in as many elements, in multiples of those in which eager does."""


def shape_fault(name: str, case: Case, eager: Values, got: Values) -> str | None:
    """What is wrong with the form of an answer; None if nothing."""
    if got.shape == eager.shape and got.dtype == eager.dtype:
        return None
    return f"{name} ({case.name}) must be {eager.dtype}{list(eager.shape)}, got {got.dtype}{list(got.shape)}"


class StructureTally:
    """What is wrong with the form of one output, gathered case by case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.undefined_count = 0
        self.compared_count = 0
        """Elements of integer and boolean outputs that were compared."""
        self._faults: list[str] = []
        self._unequal: list[str] = []
        self._unequal_count = self._unequal_in_eager_count = 0
        self._non_finite: list[str] = []
        self._has_non_finite = False

    def add_fault(self, fault: str) -> None:
        """A fault of form: nothing of the case can be compared."""
        self._faults.append(fault)

    def add(self, answers: Answers, explained: Values | None = None) -> None:
        """Add one case; ``explained`` is where an integer output may differ, since its choice is a tie."""
        special = answers.case.group == "non-finite"
        faults = self._non_finite if special else self._faults
        self._has_non_finite |= special
        where = f"{self.name} ({answers.case.name})"
        self.undefined_count += int((~answers.defined).sum())
        size = answers.got.size
        if not answers.floating:
            self.compared_count += int(answers.defined.sum())
            judged = answers.defined if explained is None else answers.defined & ~explained
            if wrong := int((answers.got != answers.wide)[judged].sum()):
                (faults if special else self._unequal).append(f"{where}: {wrong} of {size} values differ")
            if not special:
                self._unequal_count += wrong
                self._unequal_in_eager_count += int((~answers.defined).sum())
            return
        finite = np.isfinite(answers.wide) & answers.defined
        if wrong := int((~np.isfinite(answers.got) & finite).sum()):
            faults.append(f"{where}: {wrong} of {size} values are not finite where float64 is")
        expected = ~np.isfinite(answers.wide) & answers.defined
        equal = (answers.got == answers.wide) | (np.isnan(answers.got) & np.isnan(answers.wide))
        if wrong := int((~equal & expected).sum()):
            faults.append(f"{where}: {wrong} of {size} values should be NaN or Inf as float64 has them")

    def checks(self, *, nonfinite_inputs: bool, known: str | None) -> list[Check]:
        """The form of ordinary answers; and of those to NaN and Inf. ``known`` names what the runtime is known for."""
        unequal = self._unequal if self._unequal_count > _TIMES_EAGER * self._unequal_in_eager_count else []
        faults = [*self._faults, *unequal]
        undefined = f"; {self.undefined_count} elements are undefined in float32" if self.undefined_count else ""
        checks = [
            Check(
                level="structure",
                subject=self.name,
                status="fail" if faults else "pass",
                message="; ".join(faults[:3]) or f"as declared in every case{undefined}",
            )
        ]
        if self._has_non_finite:
            status: CheckStatus = "pass"
            message = "NaN and Inf go where float64 sends them"
            if self._non_finite:
                status = "fail" if nonfinite_inputs else "reported"
                message = "; ".join(self._non_finite) + (f" (known: {known})" if known else "")
            checks.append(Check(level="non-finite", subject=self.name, status=status, message=message))
        return checks
