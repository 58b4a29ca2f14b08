"""Calibration on the user's own model: how many equivalent variants fail, and the weakest faults that do not."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.parity.answers import Answers
from bench.parity.cases import Case
from bench.parity.equivalent import EquivalentVariant, equivalent_variants, thresholds
from bench.parity.faults import FAULTS, Fault
from bench.parity.levels.error import ErrorTally
from bench.parity.levels.structure import StructureTally
from bench.parity.levels.systematic import SlopeTally
from bench.parity.oracle import Oracle
from bench.parity.reference import EAGER, FLOAT64, INPUTS
from bench.parity.scores import SCORES, load_chosen
from bench.parity.spec import ParitySpec, Thresholds
from bench.parity.store import load_case
from export.artifact import verified_program
from export.build import Source
from export.errors import UserError
from export.record import Observed, Record, observed
from export.signature import Signature
from export.task import task

if TYPE_CHECKING:
    from torch import nn

_CASES_COUNT = 2
"""Chunks of rows on which faults are tried."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """One class of fault, planted into the model itself."""

    name: str
    seen: str | None
    """The weakest that fails; None if not even the strongest does."""
    missed: str | None
    """The strongest that passes; None if all fail."""
    ratio: float
    """The larger error ratio of the weakest that fails; of the strongest where none does."""


@dataclass(frozen=True, kw_only=True)
class Calibration(Record):
    """What ``pipeline.calibrate`` leaves; ``pipeline.all`` judges by its variants too."""

    SCHEMA: ClassVar[str] = "torchstone.calibration/2"

    key: str
    reference_sha256: str
    variants: tuple[EquivalentVariant, ...]
    would_fail_count: int
    """Equivalent variants beyond the recipe's own thresholds."""
    thresholds: Thresholds
    """The recipe's, raised if any variant exceeds them."""
    sensitivities: tuple[Sensitivity, ...]
    observed: Observed


@dataclass(frozen=True, kw_only=True)
class CalibrationJob:
    """Calibrate on the rows of a reference."""

    source: Source
    signature: Signature
    spec: ParitySpec
    program: str | None
    reference: str
    reference_sha256: str
    cases: tuple[Case, ...]
    seed: int
    device: str
    key: str


@task
def calibrate(job: CalibrationJob) -> Calibration:
    """Run every equivalent variant and every class of fault.

    Raises:
        UserError: the model has no float64 answer, or keeps state between calls: there is nothing to calibrate by.
    """
    started = time.monotonic()
    program_file = verified_program(Path(job.program)) if job.program else None
    oracle = Oracle(job.source.module(), job.signature, job.device, program_file)
    if oracle.failure:
        raise UserError(f"there is nothing to calibrate by: {oracle.failure}")
    folder = Path(job.reference)
    oracle.eager(load_case(folder / INPUTS, 0, [spec.name for spec in job.signature.inputs]))
    if oracle.has_moved:
        raise UserError("there is nothing to calibrate by: the model keeps state between calls")
    variants = equivalent_variants(oracle, folder, job.cases, replace(job.spec, depth="full"), job.seed)
    limits = thresholds(job.spec, variants)
    would_fail = [
        variant
        for variant in variants
        if variant.rms_ratio > job.spec.max_rms_ratio or variant.peak_ratio > job.spec.max_peak_ratio
    ]
    sensitivities = (_sensitivity(fault, oracle, folder, job.cases, limits) for fault in FAULTS)
    return Calibration(
        key=job.key,
        reference_sha256=job.reference_sha256,
        variants=variants,
        would_fail_count=len(would_fail),
        thresholds=limits,
        sensitivities=tuple(sensitivity for sensitivity in sensitivities if sensitivity is not None),
        observed=observed(time.monotonic() - started),
    )


def _sensitivity(
    fault: Fault, oracle: Oracle, folder: Path, cases: Sequence[Case], limits: Thresholds
) -> Sensitivity | None:
    """Weaken the fault until it passes; None if the model has no part for it."""
    seen = missed = None
    ratio = 0.0
    for strength in fault.strengths:
        module = copy.deepcopy(oracle.module)
        if not fault.plant(module, strength):
            return None
        fails, reached = _fails(oracle, module, folder, cases, limits)
        message = fault.unit.format(strength) or "as it is"
        if not fails:
            missed, ratio = message, (ratio if seen else reached)
            break
        seen, ratio = message, reached
    return Sensitivity(name=fault.name, seen=seen, missed=missed, ratio=ratio)


def _fails(
    oracle: Oracle, module: nn.Module, folder: Path, cases: Sequence[Case], limits: Thresholds
) -> tuple[bool, float]:
    """Whether an artifact that computes as ``module`` does would fail on the rows; and its larger error ratio."""
    names = oracle.signature.output_names
    tallies = [(StructureTally(name), ErrorTally(name), SlopeTally(name)) for name in names]
    for index in [index for index, case in enumerate(cases) if case.group == "rows"][:_CASES_COUNT]:
        got = oracle.eager(load_case(folder / INPUTS, index, [spec.name for spec in oracle.signature.inputs]), module)
        wide, eager = (load_case(folder / kind, index, names) for kind in (FLOAT64, EAGER))
        for name, triple in zip(names, tallies, strict=True):
            answers = Answers(
                output=name,
                case=cases[index],
                wide=wide[name],
                eager=eager[name],
                got=got[name],
                chosen=partial(load_chosen, folder / SCORES, index, name),
            )
            for tally in triple:
                tally.add(answers)
    checks = [
        check
        for structure, error, slope in tallies
        for check in (*structure.checks(), *error.checks(limits), *slope.checks(limits))
    ]
    ratio = max(max(error.rms_ratio, error.peak_ratio) for _, error, _ in tallies)
    return any(check.status == "fail" for check in checks), ratio
