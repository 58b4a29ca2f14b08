"""Artifacts that are not meant to compute the same function: int8, and files in half precision of a model in more bits.

int8 is held to what it is for: the recipe's metric within its margin, and a signal-to-noise ratio that a working
quantisation exceeds by far. Half precision is held to its own rounding: eager's error, as many times larger as its
roundings are, and twice that, since it rounds weights as well; where it was brought about here also to an ideal one
(bench/parity/contents/ideal.py) and to the metric; and its weights to the checkpoint's. Everything else is reported, so
that one sees what was given up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from bench.parity.answers import Answers
from bench.parity.changes import PAST_FLOAT16
from bench.parity.check import Check
from bench.parity.contents.ideal import dtype_checks, ideal_checks
from bench.parity.contents.quantized import quantized_checks
from bench.parity.levels.level import Context, Inside, Level, PerOutput
from export.artifact import Artifact
from export.foreign.narrowed import coarser, half_of

LEAST_SQNR_DB = 20.0
"""Static int8 of working models lies at 30-50 dB; below 20, one answer in ten is noise."""
_PRECISIONS = ("int8",)
_WEIGHTS_TOO = 2.0
"""Eager rounds what it computes; a file in half precision rounds its weights too."""
REAL_ROWS = ("rows", "calls", "sizes")


def is_quantized(precision: str) -> bool:
    """Whether an artifact of this precision computes in integers."""
    return precision in _PRECISIONS


def rounds_by_intent(precision: str) -> bool:
    """Whether an artifact of this precision is coarser than the model by intent."""
    return is_quantized(precision) or half_of(precision) is not None


def judged_by_metric(artifact: Artifact) -> bool:
    """Whether only the recipe's metric can say that it is good enough: of int8, and of the half precision built here.

    Whoever brings a file in half precision has said that it is; it is judged by its own rounding alone.
    """
    return is_quantized(artifact.precision) or (half_of(artifact.precision) is not None and not artifact.is_foreign)


def as_intended(check: Check, level: Level, context: Context) -> Check:
    """The finding as it counts: what only an exact artifact can meet is reported of one that rounds by intent.

    Weights in half precision are held to what can be recomputed, calls of a size that float16 does not reach to
    nothing. No precision is a reason to refuse a call.
    """
    half = half_of(context.artifact.precision)
    if check.status == "pass" or not rounds_by_intent(context.artifact.precision):
        return check
    refused = {context.cases[index].name for index in context.refusals if context.cases[index].group != "non-finite"}
    if check.cases and refused >= {*check.cases}:
        return check
    if level.exact and (half is None or level.name != "weights"):
        return replace(check, status="reported")
    if half == "float16" and level.name == "structure" and check.cases and {*PAST_FLOAT16} >= {*check.cases}:
        message = f"{check.message}: float16 ends at 65504, and is not judged by what it does not reach"
        return replace(check, status="reported", message=message)
    return check


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
    meaning = "of int8 and of half precision: signal over noise, and errors in units of the precision's own"
    tally = FidelityTally

    def observe(self, inside: Inside) -> Iterable[Check]:
        """What values are cast to, and errors beside an ideal's, where half precision was brought about here; of int8
        what its weights are beside the checkpoint's.
        """
        if is_quantized(inside.opened.artifact.precision) and inside.weights is not None:
            yield from quantized_checks(inside.opened, inside.weights)
        yield from dtype_checks(inside.opened)
        yield from ideal_checks(inside.opened, inside.calls)

    def checks(self, context: Context) -> Iterable[Check]:
        """The fidelity of every output; none of an artifact that is to compute the same function."""
        precision = context.artifact.precision
        if not rounds_by_intent(precision):
            return
        yield from (check for check in context.observed if check.level == self.name)
        for output in context.outputs:
            yield from self.of(output).checks()
            if half_of(precision) is not None and context.has_reference:
                yield from _half_checks(context, output)


def _half_checks(context: Context, output: str) -> Iterator[Check]:
    """The error of one output in units of what the precision makes of eager's own."""
    precision, errors = context.artifact.precision, context.errors[output]
    figures = (
        ("RMS", errors.rms_ratio, context.limits.max_rms_ratio),
        ("largest", errors.peak_ratio, context.limits.max_peak_ratio),
    )
    for kind, ratio, limit in figures:
        value, most = ratio / coarser(precision), _WEIGHTS_TOO * limit
        message = f"{output}: {kind} error is {value:.3g} times what {half_of(precision)} makes of eager's own"
        yield Check(
            level="fidelity",
            subject=output,
            status="pass" if value <= most else "fail",
            message=f"{message}, at most {most:.3g}",
            value=value,
            limit=most,
        )
