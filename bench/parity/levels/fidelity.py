"""Artifacts that are not meant to compute the same function: int8, whose weights and activations are rounded coarsely.

They are held to what they are for: the recipe's metric within its margin, and a signal-to-noise ratio that a working
quantisation exceeds by far. Everything else is reported, so that one sees what was given up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from bench.parity.answers import Answers
from bench.parity.check import Check
from bench.parity.levels.level import Context, PerOutput

LEAST_SQNR_DB = 20.0
"""Static int8 of working models lies at 30-50 dB; below 20, one answer in ten is noise."""
_PRECISIONS = ("int8",)
REAL_ROWS = ("rows", "calls", "sizes")


def is_quantized(precision: str) -> bool:
    """Whether an artifact of this precision rounds by intent."""
    return precision in _PRECISIONS


class FidelityTally:
    """The signal-to-quantisation-noise ratio of one output over real rows, alone and in other calls and sizes."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._powers: dict[str, tuple[float, float]] = {}

    def add(self, answers: Answers) -> None:
        """Count a case of real rows."""
        group = answers.case.group
        if group not in REAL_ROWS or not answers.floating:
            return
        both = np.isfinite(answers.wide) & np.isfinite(answers.got)
        wide, got = answers.wide[both], answers.got[both].astype(np.float64)
        signal, noise = self._powers.get(group, (0.0, 0.0))
        self._powers[group] = (signal + float(np.square(wide).sum()), noise + float(np.square(got - wide).sum()))

    def checks(self) -> list[Check]:
        """Whether it is enough, by kind of call; none for an output that is no float."""
        return [self._check(group, signal, noise) for group, (signal, noise) in self._powers.items() if signal]

    def _check(self, group: str, signal: float, noise: float) -> Check:
        sqnr_db = 10 * math.log10(signal / noise) if noise else math.inf
        return Check(
            level="fidelity",
            subject=self._output,
            status="pass" if sqnr_db >= LEAST_SQNR_DB else "fail",
            message=f"{self._output} ({group}): {sqnr_db:.1f} dB of signal over quantisation noise, "
            f"at least {LEAST_SQNR_DB:g}",
            value=sqnr_db,
            limit=LEAST_SQNR_DB,
        )


class Fidelity(PerOutput[FidelityTally]):
    """Signal over quantisation noise, of artifacts that round by intent."""

    name = "fidelity"
    meaning = "of int8: signal over quantisation noise"
    tally = FidelityTally

    def checks(self, context: Context) -> Iterable[Check]:
        """The fidelity of every output; none of an artifact that is to compute the same function."""
        if is_quantized(context.artifact.precision):
            for output in context.outputs:
                yield from self.of(output).checks()
