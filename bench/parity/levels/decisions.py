"""Decisions: whether an artifact picks the class, or the side of the threshold, that float64 picks.

A flip is explained if the float64 margin between the two choices is no larger than honest errors can bridge: twice the
largest error that passes. An unexplained flip fails: values alone would not have moved the decision. The rate comes
with its exact (Clopper-Pearson) interval; no flip in n rows means fewer than 3 in n, at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bench.parity.answers import Answers, Scores
from bench.parity.cases import Values
from bench.parity.check import Check, CheckStatus
from bench.parity.levels.level import Context, PerOutput
from export.arrays import float_limits

_EXPLAINED = 4.0
"""An artifact may be as many times as far from float64 as the farthest equivalent of the model."""
_CHOICE_ERRORS = 8.0
"""Two values, each off by at most four times eager's largest error."""


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Decisions of one output over all rows."""

    rule: str
    """``argmax``, ``> 0.5`` or ``> 0``."""
    decisions_count: int
    flips_count: int
    unexplained_count: int
    rate_low: float
    rate_high: float
    """The exact 95 % interval of the rate."""


class DecisionTally:
    """Decisions of one output, gathered case by case: the largest of its classes, else a side of a threshold.

    Classes are dimension 1 of an image, else the last. A single value is on one side of 0.5 if all that float64
    answers lies in [0, 1], else of 0.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._probability = True
        self._counts: dict[str, int] = {}
        self._flipped_margins: dict[str, list[tuple[float, str]]] = {}
        """By rule: the margin of each flip, and its case."""

    def add(self, answers: Answers) -> None:
        """Add one case of rows; only decisions among numbers that are finite in all three answers count."""
        if answers.case.group != "rows" or not answers.floating or answers.wide.ndim == 0:
            return
        axis = 1 if answers.wide.ndim >= 4 else answers.wide.ndim - 1
        if answers.wide.ndim >= 2 and answers.wide.shape[axis] >= 2:
            valid, wide, got = (np.moveaxis(a, axis, -1) for a in (answers.comparable, answers.wide, answers.got))
            rows = valid.all(-1)
            wide, chosen, other = wide[rows], wide[rows].argmax(-1)[..., None], got[rows].argmax(-1)[..., None]
            gap = np.take_along_axis(wide, chosen, -1) - np.take_along_axis(wide, other, -1)
            self._count(
                "argmax", chosen != other, gap - _undetermined(answers, axis)[rows][..., None], answers.case.name
            )
            return
        wide, got = answers.wide[answers.comparable], answers.got[answers.comparable]
        self._probability &= bool(((wide >= 0) & (wide <= 1)).all())
        for rule, threshold in (("> 0.5", 0.5), ("> 0", 0.0)):
            undetermined = _undetermined(answers, None)[answers.comparable]
            margins = np.abs(wide - threshold) - undetermined
            self._count(rule, (wide > threshold) != (got > threshold), margins, answers.case.name)

    def _count(self, rule: str, flipped: Values, margins: Values, case: str) -> None:
        self._counts[rule] = self._counts.get(rule, 0) + flipped.size
        kept = self._flipped_margins.setdefault(rule, [])
        kept.extend((margin, case) for margin in margins[flipped].astype(np.float64).tolist())

    def result(self, allowed_error: float) -> Flips | None:
        """The flips, explained or not; None if nothing was decided. ``allowed_error`` is per value."""
        rule = "argmax" if "argmax" in self._counts else ("> 0.5" if self._probability else "> 0")
        if not self._counts.get(rule):
            return None
        margins = self._flipped_margins[rule]
        low, high = clopper_pearson(len(margins), self._counts[rule])
        return Flips(
            rule=rule,
            decisions_count=self._counts[rule],
            flips_count=len(margins),
            unexplained_count=sum(margin > 2 * allowed_error for margin, _ in margins),
            rate_low=low,
            rate_high=high,
        )

    def checks(self, allowed_error: float) -> list[Check]:
        """Whether every flip is one that honest errors explain."""
        flips = self.result(allowed_error)
        if flips is None:
            return []
        message = (
            f"{flips.flips_count} of {flips.decisions_count} flipped ({flips.rule}), at most {flips.rate_high:.2%}"
        )
        if flips.unexplained_count:
            message = (
                f"{self.name}: {flips.unexplained_count} of {flips.decisions_count} decisions ({flips.rule}) differ "
                f"by more than honest errors explain (a margin of {2 * allowed_error:.3g})"
            )
        status: CheckStatus = "fail" if flips.unexplained_count else "pass"
        unexplained = sorted(
            (-margin, case) for margin, case in self._flipped_margins[flips.rule] if margin > 2 * allowed_error
        )
        return [
            Check(
                level="decisions",
                subject=self.name,
                status=status,
                message=message,
                cases=tuple(dict.fromkeys(case for _, case in unexplained)),
                value=float(flips.unexplained_count),
                limit=0.0,
            )
        ]


def _undetermined(answers: Answers, axis: int | None) -> Values:
    """By how much equivalents of the model may move a decision: of one value, or along ``axis`` the largest, twice."""
    if answers.spread is None:
        peak = np.zeros(answers.wide.shape)
    else:
        peak = np.where(np.isfinite(answers.spread.peak), answers.spread.peak, 0.0)
    return _EXPLAINED * (peak if axis is None else 2 * np.moveaxis(peak, axis, -1).max(-1))


class Decisions(PerOutput[DecisionTally]):
    """Whether the artifact chooses as float64 does."""

    name = "decisions"
    meaning = "the same class, the same side of the threshold"
    exact = True
    tally = DecisionTally

    def checks(self, context: Context) -> Iterable[Check]:
        """The decisions of every output; without a float64 answer flips against eager are reported."""
        for output in context.outputs:
            decisions = self.of(output)
            if context.has_reference:
                yield from decisions.checks(context.errors[output].allowed_peak * context.limits.max_peak_ratio)
            elif (flips := decisions.result(math.inf)) is not None:
                message = (
                    f"{flips.flips_count} of {flips.decisions_count} flipped against eager ({flips.rule}): no reference"
                )
                yield Check(level=self.name, subject=output, status="reported", message=message)


def explained_choices(wide: Values, got: Values, scores: Scores) -> Values:
    """Where an integer output may differ: it is the argmax of another output, and its choice is as good to rounding.

    ``scores`` are the other outputs' float64 and eager values. Choices are along the last dimension.
    """
    explained = np.zeros(wide.shape, bool)
    for truth, eager in scores:
        if truth.shape[:-1] != wide.shape or not truth.size or not np.array_equal(truth.argmax(-1), wide):
            continue
        inside = (got >= 0) & (got < truth.shape[-1])
        chosen = np.take_along_axis(truth, np.where(inside, got, 0)[..., None].astype(np.int64), -1)[..., 0]
        error = float(np.abs(eager.astype(np.float64) - truth).max())
        rounding = float(float_limits(eager.dtype).eps) * float(np.abs(truth).max())
        explained |= inside & (truth.max(-1) - chosen <= _CHOICE_ERRORS * max(error, rounding))
    return explained


def clopper_pearson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a rate from ``count`` of ``n``, by bisection on the binomial distribution.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    if n == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    fewer = np.arange(count + 1)
    log_choices = np.concatenate([[0.0], np.cumsum(np.log((n + 1 - fewer[1:]) / fewer[1:]))])

    def solve(at_most: int, target: float) -> float:
        """The rate at which P(X <= at_most) is ``target``."""
        k, log_choose = fewer[: at_most + 1], log_choices[: at_most + 1]
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if middle == 1.0:
                break
            terms = log_choose + k * math.log(middle) + (n - k) * math.log1p(-middle)
            low, high = (middle, high) if float(np.exp(terms).sum()) > target else (low, middle)
        return (low + high) / 2

    return (0.0 if count == 0 else solve(count - 1, 1 - tail)), (1.0 if count == n else solve(count, tail))
