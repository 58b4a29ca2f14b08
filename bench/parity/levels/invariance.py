"""Batch invariance: the first rows of the pool, alone and within larger batches.

Reported, never failed: one-row products take other kernels in nearly every runtime, and the error ratio already bounds
each batch size against float64.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bench.parity.answers import Answers
from bench.parity.cases import Values
from bench.parity.check import Check, CheckStatus
from bench.parity.levels.level import Context, PerOutput
from export.arrays import is_floating


class InvarianceTally:
    """The answers to the first rows, in every batch that begins with them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._starts: list[tuple[str, Values]] = []

    def add(self, answers: Answers) -> None:
        """Add a case of rows from the beginning of the pool."""
        if answers.case.group == "rows" and answers.case.start == 0 and answers.got.ndim and len(answers.got):
            self._starts.append((answers.case.name, answers.got))

    def checks(self) -> list[Check]:
        """Whether every batch gives the rows that it shares with the largest the same bits."""
        if len(self._starts) < 2:
            return []
        longest_name, longest = max(self._starts, key=lambda item: len(item[1]))
        differing = []
        for name, got in self._starts:
            shared = longest[: len(got)]
            if shared.shape == got.shape and shared.tobytes() != got.tobytes():
                unequal = (
                    (shared != got) & ~(np.isnan(shared) & np.isnan(got)) if is_floating(got.dtype) else shared != got
                )
                differing.append(f"{name} ({int(unequal.sum())} of {got.size} values)")
        status: CheckStatus = "reported" if differing else "pass"
        message = f"rows differ in their last bits between {longest_name} and {', '.join(differing)}"
        return [
            Check(
                level="invariance",
                subject=self.name,
                status=status,
                message=message if differing else f"bitwise the same in {len(self._starts)} batches",
            )
        ]


class Invariance(PerOutput[InvarianceTally]):
    """The same rows in another batch."""

    name = "invariance"
    meaning = "the same rows in another batch"
    tally = InvarianceTally

    def checks(self, context: Context) -> Iterable[Check]:
        """The invariance of every output; not asked where the rows of a call look at each other."""
        if not context.own_rows:
            message = "the rows of a call look at each other: their answers may differ between batches"
            yield Check(level=self.name, subject="rows", status="reported", message=message)
            return
        for output in context.outputs:
            yield from self.of(output).checks()
