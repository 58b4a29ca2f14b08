"""One artifact's answers to every case of a reference, in a process of its own.

That process runs without the model's source: what it proves is what a server will load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.parity.cases import Case
from bench.parity.check import Check
from bench.parity.contents.opened import Opened
from bench.parity.contents.probe import Call
from bench.parity.contents.storage import storage
from bench.parity.levels import LEVELS
from bench.parity.levels.level import Inside
from bench.parity.reference import FLOAT64, INPUTS
from bench.parity.store import load_case, save_case
from export import registry
from export.backend import LoadOptions, Runner, Witness
from export.build import Source
from export.task import task

if TYPE_CHECKING:
    from torch import nn

_PROBED_CASES = 4


@dataclass(frozen=True, kw_only=True)
class OutputsJob:
    """Answer every case with one artifact, then look at the rest."""

    artifact: str
    """Its folder."""
    options: LoadOptions
    source: Source | None
    """Given to the eager backend alone."""
    reference: str
    """The reference's folder."""
    cases: tuple[Case, ...]
    program: str | None
    """The traced program's folder; None if the model could not be traced."""
    weights: str | None
    """The checkpoint's weights, as safetensors."""
    outputs: str
    """The folder to write into."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What was found besides the answers, which lie in the job's folder."""

    witness: Witness
    refusals: dict[str, str]
    """By case number: why the artifact did not answer it."""
    checks: tuple[Check, ...] = ()
    """What the levels saw inside."""


@task
def outputs(job: OutputsJob) -> Outputs:
    """Load one artifact from disk, answer every case in order, write the answers, then let the levels look inside."""
    module: Callable[[], nn.Module] | None = job.source.module if job.source else None
    runner = registry.load(Path(job.artifact), job.options, module)
    refusals = _answer_all(job, runner)
    opened = Opened(runner.artifact, Path(job.artifact), Path(job.program) if job.program else None)
    witness = runner.witness()
    witness = replace(witness, evidence=storage(opened) | witness.evidence)
    few = next(index for index, case in enumerate(job.cases) if case.group == "calls")
    inside = Inside(
        runner=runner,
        opened=opened,
        inputs=None if str(few) in refusals else load_case(Path(job.reference) / INPUTS, few, _inputs(runner)),
        weights=Path(job.weights) if job.weights else None,
        calls=lambda: [] if refusals else _calls(job, runner),
    )
    checks = tuple(check for level in LEVELS for check in level().observe(inside))
    return Outputs(witness=witness, refusals=refusals, checks=checks)


def _answer_all(job: OutputsJob, runner: Runner) -> dict[str, str]:
    """Write the answers; those that the artifact refuses, by case number, with its reason."""
    refusals = {}
    for index in range(len(job.cases)):
        inputs = load_case(Path(job.reference) / INPUTS, index, _inputs(runner))
        try:
            answered = runner(inputs)
        except Exception as error:  # noqa: BLE001 - each runtime refuses in its own type; every refusal is reported
            refusals[str(index)] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        else:
            save_case(Path(job.outputs), index, answered)
    return refusals


def _calls(job: OutputsJob, runner: Runner) -> Sequence[Call]:
    """A few calls with real rows, from which weights that the files do not show are read."""
    rows = [index for index, case in enumerate(job.cases) if case.group == "rows"][:_PROBED_CASES]
    names = [spec.name for spec in runner.signature.outputs]
    reference = Path(job.reference)
    return [
        (
            load_case(reference / INPUTS, index, _inputs(runner)),
            load_case(reference / FLOAT64, index, names),
            load_case(Path(job.outputs), index, names),
        )
        for index in rows
    ]


def _inputs(runner: Runner) -> list[str]:
    return [spec.name for spec in runner.signature.inputs]
