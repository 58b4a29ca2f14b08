"""Artifacts that are not meant to compute the same function: int8, whose weights and activations are rounded coarsely.

They are held to what they are for: the recipe's metric within its margin, and a signal-to-noise ratio that a working
quantisation exceeds by far. Everything else is reported, so that one sees what was given up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.parity.answers import Answers
from bench.parity.check import Check

LEAST_SQNR_DB = 20.0
"""Static int8 of working models lies at 30-50 dB; below 20, one answer in ten is noise."""
_EXACT = (
    "weights",
    "attributes",
    "error",
    "systematic",
    "decisions",
    "calls",
    "values",
    "sizes",
    "extremes",
    "non-finite",
)
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

    def add(self, one: Answers) -> None:
        """Count a case of real rows."""
        group = one.case.group
        if group not in REAL_ROWS or not one.floating:
            return
        both = np.isfinite(one.wide) & np.isfinite(one.got)
        wide, got = one.wide[both], one.got[both].astype(np.float64)
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
        )


def judged_by_fidelity(checks: Sequence[Check]) -> list[Check]:
    """The same findings, those that only an exact artifact can meet reported; without a metric nothing is proved."""
    found = [
        replace(check, status="reported") if check.level in _EXACT and check.status != "pass" else check
        for check in checks
    ]
    if not any(check.level == "metric" and check.status in {"pass", "fail", "inconclusive"} for check in found):
        message = "int8 is judged by the recipe's metric, and there is none: give it metrics and labelled data"
        found.append(Check(level="metric", subject="metrics", status="inconclusive", message=message))
    return found
