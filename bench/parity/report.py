"""The verdict of parity: every level's findings about one artifact, gathered case by case.

An artifact passes if no level fails. Without a float64 answer there is no error ratio, and the verdict is
``no-reference`` unless something that needs none fails; if nothing finite could be compared, or float32 itself says
nothing about the model, it is ``inconclusive``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bench.parity.answers import Answers
from bench.parity.cases import Values
from bench.parity.check import Check
from bench.parity.equivalent import EquivalentVariant, ill_conditioned, thresholds
from bench.parity.jobs import EAGER, FLOAT64, Outputs, Reference
from bench.parity.levels.decisions import DecisionTally, Flips, explained_choices
from bench.parity.levels.error import ErrorTally, Ulps
from bench.parity.levels.fidelity import FidelityTally, is_quantized, judged_by_fidelity
from bench.parity.levels.invariance import InvarianceTally
from bench.parity.levels.structure import StructureTally, shape_fault
from bench.parity.levels.systematic import SlopeTally
from bench.parity.spec import ParitySpec, Thresholds
from bench.parity.store import load_case
from export.artifact import Artifact
from export.backend import LoadOptions, Witness
from export.record import Observed, Record, digest, observed

ParityStatus = Literal["pass", "fail", "inconclusive", "no-reference"]
_REFUSALS_SHOWN = 3
_KNOWN: dict[str, tuple[tuple[str, str], ...]] = {
    "onnx": (
        ("max_pool", "ONNX Runtime's MaxPool drops NaN"),
        ("argmax", "ONNX Runtime's ArgMax ignores NaN"),
        ("sign", "ONNX Runtime's Sign of NaN is NaN"),
    ),
}
"""What runtimes are known to do with NaN and Inf, by backend and by what an operator of the model is called."""


@dataclass(frozen=True, kw_only=True)
class OutputParity:
    """The figures of one output of one artifact, over all rows."""

    name: str
    rms_ratio: float
    peak_ratio: float
    peak_case: str
    """The case of the largest error."""
    max_abs_error: float
    ulps: Ulps | None
    slope_ulps: float | None
    """The steepest error that grows with the output, per channel; None if too few rows can tell."""
    flips: Flips | None
    compared_count: int
    """Elements whose value was compared, of all cases."""
    undefined_count: int
    """Elements on which float64 and eager float32 do not agree whether they are finite."""


@dataclass(frozen=True, kw_only=True)
class TestedSizes:
    """The sizes of one dynamic dimension between which the artifact was right, both ends tried."""

    min: int
    max: int


@dataclass(frozen=True, kw_only=True)
class ParityReport(Record):
    """Whether one artifact computes the model's function, with the evidence."""

    SCHEMA: ClassVar[str] = "torchstone.parity/2"

    key: str
    artifact: str
    artifact_sha256: str
    reference_sha256: str
    status: ParityStatus
    reasons: tuple[str, ...]
    """Why it does not pass; empty if it does."""
    spec: ParitySpec
    thresholds: Thresholds
    options: LoadOptions
    """How the artifact was loaded; it is measured and served in no other way."""
    checks: tuple[Check, ...]
    outputs: tuple[OutputParity, ...]
    tested_sizes: dict[str, TestedSizes]
    """By symbol."""
    witness: Witness
    observed: Observed

    @property
    def worst_ratio(self) -> float | None:
        """The largest peak ratio of any output; None if nothing could be compared."""
        return max((output.peak_ratio for output in self.outputs), default=None)

    @property
    def failed_levels(self) -> tuple[str, ...]:
        """The levels that fail, in order."""
        return tuple(dict.fromkeys(check.level for check in self.checks if check.status == "fail"))


def compare(
    artifact: Artifact,
    reference: Reference,
    folder: Path,
    answered: Outputs,
    answers: Path,
    spec: ParitySpec,
    options: LoadOptions,
    key: str,
    duration_s: float,
    variants: Sequence[EquivalentVariant],
    more: Sequence[Check] = (),
    operators: Sequence[str] = (),
) -> ParityReport:
    """Judge one artifact's answers.

    ``folder`` is the reference's, ``nulls`` are honest variants of the model, ``operators`` those of its program.
    """
    limits = thresholds(spec, variants)
    known = next(
        (message for part, message in _KNOWN.get(artifact.backend, ()) if any(part in o for o in operators)), None
    )
    floats = [spec.name for spec in artifact.signature.outputs if spec.dtype.startswith("float")]
    quantized = is_quantized(artifact.precision)
    tallies = [_Tallies(name, known, floats) for name in artifact.signature.output_names]
    for index in range(len(reference.cases)):
        if str(index) not in answered.refusals:
            for tally in tallies:
                tally.add(reference, folder, answers, index)
    checks = [
        *_execution(answered.witness),
        *_refused(reference, answered),
        *(check for tally in tallies for check in tally.checks(reference, limits, spec)),
        *answered.checks,
        *more,
    ]
    if quantized:
        checks = judged_by_fidelity([*checks, *(check for tally in tallies for check in tally.fidelity.checks())])
    status, reasons = _status(checks, reference, tallies, variants)
    return ParityReport(
        key=key,
        artifact=artifact.name,
        artifact_sha256=digest(artifact),
        reference_sha256=digest(reference),
        status=status,
        reasons=reasons,
        spec=spec,
        thresholds=limits,
        options=options,
        checks=tuple(checks),
        outputs=() if reference.failure else tuple(tally.result() for tally in tallies if tally.compared_count),
        tested_sizes=_proved(reference) if status == "pass" else {},
        witness=answered.witness,
        observed=observed(duration_s),
    )


class _Tallies:
    """Everything that is gathered about one output."""

    def __init__(self, name: str, known: str | None, others: Sequence[str]) -> None:
        self.name = name
        self._others = others
        self._known = known
        self._structure = StructureTally(name)
        self._error = ErrorTally(name)
        self._slope = SlopeTally(name)
        self._decisions = DecisionTally(name)
        self._invariance = InvarianceTally(name)
        self.fidelity = FidelityTally(name)

    @property
    def compared_count(self) -> int:
        return self._error.compared_count + self._structure.compared_count

    def add(self, reference: Reference, folder: Path, answers: Path, index: int) -> None:
        case = reference.cases[index]
        (wide,), (eager,), (got,) = (
            load_case(where, index, (self.name,)).values() for where in (folder / FLOAT64, folder / EAGER, answers)
        )
        if fault := shape_fault(self.name, case, eager, got):
            self._structure.add_fault(fault)
            return
        one = Answers(case, wide, eager, got)
        self._structure.add(one, None if one.floating else self._ties(one, folder, index))
        self._invariance.add(one)
        self.fidelity.add(one)
        if case.group != "non-finite":
            self._error.add(one)
        self._slope.add(one)
        self._decisions.add(one)

    def _ties(self, one: Answers, folder: Path, index: int) -> Values | None:
        """Where an integer answer differs only in a choice between equals."""
        if np.array_equal(one.got, one.wide):
            return None
        scores = [
            tuple(load_case(folder / kind, index, (other,))[other] for kind in (FLOAT64, EAGER))
            for other in self._others
        ]
        return explained_choices(one.wide, one.got, scores)  # type: ignore[arg-type]

    def checks(self, reference: Reference, limits: Thresholds, spec: ParitySpec) -> list[Check]:
        checks = self._structure.checks(nonfinite_inputs=spec.nonfinite_inputs, known=self._known)
        if reference.failure is None:
            checks += self._error.checks(limits)
            checks += self._slope.checks(limits)
            checks += self._decisions.checks(self._error.allowed_peak * limits.max_peak_ratio)
        elif (flips := self._decisions.result(math.inf)) is not None:
            message = (
                f"{flips.flips_count} of {flips.decisions_count} flipped against eager ({flips.rule}): no reference"
            )
            checks.append(Check(level="decisions", subject=self.name, status="reported", message=message))
        return checks + self._invariance.checks()

    def result(self) -> OutputParity:
        return OutputParity(
            name=self.name,
            rms_ratio=self._error.rms_ratio,
            peak_ratio=self._error.peak_ratio,
            peak_case=self._error.peak_case,
            max_abs_error=self._error.max_abs_error,
            ulps=self._error.ulps(),
            slope_ulps=self._slope.slope_ulps,
            flips=self._decisions.result(self._error.allowed_peak),
            compared_count=self.compared_count,
            undefined_count=self._structure.undefined_count,
        )


def _status(
    checks: Sequence[Check], reference: Reference, tallies: Sequence[_Tallies], variants: Sequence[EquivalentVariant]
) -> tuple[ParityStatus, tuple[str, ...]]:
    failing = tuple(check.message for check in checks if check.status == "fail")
    if failing:
        return "fail", failing
    if reference.failure:
        return "no-reference", (reference.failure,)
    unclear = tuple(check.message for check in checks if check.status == "inconclusive")
    if (why := ill_conditioned(variants)) is not None:
        unclear += (why,)
    unclear += tuple(
        f"{tally.name}: no element is finite in float64 and float32, nothing could be compared"
        for tally in tallies
        if not tally.compared_count
    )
    return ("inconclusive", unclear) if unclear else ("pass", ())


def _execution(witness: Witness) -> list[Check]:
    summary = ", ".join(f"{name} {value}" for name, value in witness.evidence.items()) or f"on {witness.device}"
    return [
        Check(
            level="execution",
            subject=witness.device,
            status="fail" if witness.fallback else "pass",
            message=witness.fallback or summary,
        )
    ]


def _refused(reference: Reference, answered: Outputs) -> list[Check]:
    """Cases that the model answers and the artifact does not."""
    refused = sorted((int(index), reason) for index, reason in answered.refusals.items())
    checks = []
    for index, reason in refused[:_REFUSALS_SHOWN]:
        case = reference.cases[index]
        level = "structure" if case.group == "rows" else case.group
        checks.append(Check(level=level, subject=case.name, status="fail", message=f"refused {case.name}: {reason}"))
    if len(refused) > _REFUSALS_SHOWN:
        message = f"{len(refused)} of {len(reference.cases)} cases were refused"
        checks.append(Check(level="structure", subject="cases", status="fail", message=message))
    return checks


def _proved(reference: Reference) -> dict[str, TestedSizes]:
    sizes: dict[str, list[int]] = {}
    for case in reference.cases:
        for name, size in case.sizes.items():
            sizes.setdefault(name, []).append(size)
    return {name: TestedSizes(min=min(tried), max=max(tried)) for name, tried in sizes.items()}
