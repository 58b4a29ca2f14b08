"""The judgement of one artifact: every level is given its answers case by case, and says what it found.

An artifact passes if no level fails. Without a float64 answer there is no error ratio, and the verdict is
``no-reference`` unless something that needs none fails; if nothing finite could be compared, or float32 itself says
nothing about the model, it is ``inconclusive``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.parity.answers import Answers, Scores
from bench.parity.check import Check
from bench.parity.equivalent import EquivalentVariant, ill_conditioned, thresholds
from bench.parity.levels import LEVELS
from bench.parity.levels.decisions import Decisions
from bench.parity.levels.error import ErrorTally
from bench.parity.levels.fidelity import as_intended
from bench.parity.levels.level import Context, Level
from bench.parity.levels.structure import NON_FINITE, Structure
from bench.parity.levels.systematic import Systematic
from bench.parity.levels.undetermined import CaseSpread
from bench.parity.outputs import Outputs
from bench.parity.reference import EAGER, FLOAT64, INPUTS, Reference
from bench.parity.report import OutputParity, ParityReport, ParityStatus, TestedSizes
from bench.parity.scores import SCORES, load_chosen
from bench.parity.spec import ParitySpec
from bench.parity.spread import load_spread
from bench.parity.store import load_case
from bench.parity.worst import Worst, farthest
from export import registry
from export.artifact import Artifact
from export.backend import LoadOptions
from export.record import digest, observed

L = TypeVar("L", bound=Level)


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What artifacts of a model are held to."""

    reference: Reference
    folder: Path
    """The reference's."""
    operators: tuple[str, ...]
    """The kinds of operator in the traced program."""
    spec: ParitySpec
    variants: tuple[EquivalentVariant, ...]
    """Every equivalent variant of the model that is known; the thresholds follow from them."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What one artifact did."""

    artifact: Artifact
    options: LoadOptions
    folder: Path
    """The folder of its answers."""
    outputs: Outputs
    more: tuple[Check, ...]
    """What was seen elsewhere than in its process."""
    duration_s: float
    spreads: frozenset[int] = frozenset()
    """Numbers of the cases about which equivalents of the model were asked."""
    spread_folder: Path | None = None
    """Where their spreads lie."""


def judge(standard: Standard, answered: Answered, key: str) -> ParityReport:
    """The report about one artifact."""
    judgement = _Judgement(standard, answered)
    for index in range(len(standard.reference.cases)):
        if str(index) not in answered.outputs.refusals:
            judgement.add(index)
    checks = judgement.checks()
    status, reasons = judgement.status(checks)
    return ParityReport(
        key=key,
        artifact=answered.artifact.name,
        artifact_sha256=digest(answered.artifact),
        reference_sha256=digest(standard.reference),
        status=status,
        reasons=reasons,
        spec=standard.spec,
        thresholds=judgement.limits,
        options=answered.options,
        checks=tuple(checks),
        spreads=judgement.spreads(),
        worst=judgement.worst(checks),
        outputs=judgement.results(),
        tested_sizes=_tested_sizes(standard.reference) if status == "pass" else {},
        witness=answered.outputs.witness,
        observed=observed(answered.duration_s),
    )


class _Judgement:
    """The levels at work on one artifact."""

    def __init__(self, standard: Standard, answered: Answered) -> None:
        self._standard = standard
        self._answered = answered
        self._signature = answered.artifact.signature
        self._levels = [level() for level in LEVELS]
        self._errors = {name: ErrorTally(name) for name in self._signature.output_names}
        self.limits = thresholds(standard.spec, standard.variants)

    def add(self, index: int) -> None:
        """Give the levels the answers to one case."""
        for name in self._signature.output_names:
            answers = self._answers(index, name)
            malformed = answers.malformed is not None
            if not malformed and answers.case.group != NON_FINITE:
                self._errors[name].add(answers)
            for level in self._levels:
                if level.takes_malformed or not malformed:
                    level.add(answers)

    def checks(self) -> list[Check]:
        """Every finding, level by level; what only an exact artifact can meet is reported of others."""
        context = self._context()
        return [as_intended(check, level, context) for level in self._levels for check in level.checks(context)]

    def status(self, checks: Sequence[Check]) -> tuple[ParityStatus, tuple[str, ...]]:
        """The verdict, and why it is not ``pass``."""
        reference = self._standard.reference
        failing = tuple(check.message for check in checks if check.status == "fail")
        if failing:
            return "fail", failing
        if reference.failure:
            return "no-reference", (reference.failure,)
        unclear = tuple(check.message for check in checks if check.status == "inconclusive")
        if (why := ill_conditioned(self._standard.variants)) is not None:
            unclear += (why,)
        unclear += tuple(
            f"{name}: no element is finite in float64 and float32, nothing could be compared"
            for name in self._signature.output_names
            if not self._compared_count(name)
        )
        return ("inconclusive", unclear) if unclear else ("pass", ())

    def spreads(self) -> tuple[CaseSpread, ...]:
        """What golden calls may differ by where equivalents of the model were asked."""
        return tuple(spread for tally in self._errors.values() for spread in tally.case_spreads())

    def worst(self, checks: Sequence[Check]) -> Worst | None:
        """Where what fails is farthest off."""
        reference = self._standard.reference
        refused = {int(number) for number in self._answered.outputs.refusals}
        answered = [(number, case) for number, case in enumerate(reference.cases) if number not in refused]
        return farthest(checks, answered, self._signature, self._standard.folder / INPUTS, self._answers)

    def results(self) -> tuple[OutputParity, ...]:
        """The figures of every output that could be compared; none without a float64 answer."""
        if self._standard.reference.failure:
            return ()
        return tuple(self._result(name) for name in self._signature.output_names if self._compared_count(name))

    def _answers(self, index: int, name: str) -> Answers:
        places = (self._standard.folder / FLOAT64, self._standard.folder / EAGER, self._answered.folder)
        wide, eager, got = (load_case(place, index, (name,))[name] for place in places)
        case = self._standard.reference.cases[index]
        spread = None
        if self._answered.spread_folder is not None and index in self._answered.spreads:
            spread = load_spread(self._answered.spread_folder, index, name)
        return Answers(
            output=name,
            case=case,
            wide=wide,
            eager=eager,
            got=got,
            scores=lambda: self._scores(index),
            spread=spread,
            chosen=lambda: load_chosen(self._standard.folder / SCORES, index, name),
        )

    def _scores(self, index: int) -> Scores:
        """The floating outputs of a call, as the model answered them."""
        names = [spec.name for spec in self._signature.outputs if spec.dtype.startswith("float")]
        wide, eager = (load_case(self._standard.folder / place, index, names) for place in (FLOAT64, EAGER))
        return [(wide[name], eager[name]) for name in names]

    def _context(self) -> Context:
        artifact, outputs = self._answered.artifact, self._answered.outputs
        return Context(
            artifact=artifact,
            backend=registry.get(artifact.backend),
            outputs=self._signature.output_names,
            spec=self._standard.spec,
            limits=self.limits,
            cases=self._standard.reference.cases,
            own_rows=self._standard.reference.own_rows,
            has_reference=self._standard.reference.failure is None,
            operators=self._standard.operators,
            errors=self._errors,
            witness=outputs.witness,
            refusals={
                int(index): why for index, why in sorted(outputs.refusals.items(), key=lambda item: int(item[0]))
            },
            observed=(*outputs.checks, *self._answered.more),
        )

    def _level(self, kind: type[L]) -> L:
        return next(level for level in self._levels if isinstance(level, kind))

    def _compared_count(self, output: str) -> int:
        return self._errors[output].compared_count + self._level(Structure).of(output).compared_count

    def _result(self, output: str) -> OutputParity:
        error = self._errors[output]
        return OutputParity(
            name=output,
            rms_ratio=error.rms_ratio,
            peak_ratio=error.peak_ratio,
            peak_case=error.peak_case,
            max_abs_error=error.max_abs_error,
            ulps=error.ulps(),
            slope_ulps=self._level(Systematic).of(output).slope_ulps,
            flips=self._level(Decisions).of(output).result(error.allowed_peak),
            compared_count=self._compared_count(output),
            undefined_count=self._level(Structure).of(output).undefined_count,
        )


def _tested_sizes(reference: Reference) -> dict[str, TestedSizes]:
    sizes: dict[str, list[int]] = {}
    for case in reference.cases:
        for name, size in case.sizes.items():
            sizes.setdefault(name, []).append(size)
    return {name: TestedSizes(min=min(tried), max=max(tried)) for name, tried in sizes.items()}
