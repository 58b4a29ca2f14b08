"""Name the module, operator and line of code where an artifact first departs from the model.

    python -m pipeline.locate RUN BACKEND [options]

RUN is a folder, a recipe's name (its latest run) or RECIPE@KEY; it got through parity, and its model was traced. Exit
code 0: a place is named, or nothing is wrong; 1: the artifact is wrong and no single place is at fault; 2: usage or
environment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro

from export.errors import UserError
from pipeline.cli import GOOD, NOT_GOOD

if TYPE_CHECKING:
    from bench.locate.job import Location
    from bench.parity.report import ParityReport
    from bench.run_folder import RunFolder
    from export.artifact import Artifact
    from export.task import Task
    from pipeline.console import Console

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class Options:
    """What to look at."""

    run: tyro.conf.Positional[str]
    """A folder, a recipe's name, or RECIPE@KEY."""
    backend: tyro.conf.Positional[str]
    """The artifact, by its row's name."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    range_audit: bool = False
    """Instead, list the modules whose values leave the range of float16, in float64."""
    json: bool = False
    """Print the result as JSON, and nothing else."""


def main(arguments: Sequence[str], command: str = "python -m pipeline.locate") -> int:
    """Locate, in a process of its own."""
    options = tyro.cli(Options, args=list(arguments), prog=command, description=__doc__)
    from export.artifact import read_artifact
    from pipeline.commands.named import find_run
    from pipeline.console import Console

    run = find_run(options.run, options.out)
    if options.backend not in run.artifact_names():
        raise UserError(
            f"{run.path} has no artifact {options.backend!r}, it has {', '.join(run.artifact_names()) or 'none'}"
        )
    _check_whole(run, options)
    console = Console(json=options.json)
    artifact = read_artifact(run.artifact(options.backend))
    if options.range_audit:
        return _audit(run, artifact, console, options)
    return _locate(run, artifact, console, options)


def _check_whole(run: RunFolder, options: Options) -> None:
    """Say what an error is located by, where the run does not have it.

    Raises:
        UserError: the run stopped before parity, or its model could not be traced.
    """
    from export.artifact import PROGRAM_RECORD, ProgramRecord
    from export.record import read

    if not run.reference_record.exists() or not (options.range_audit or run.parity_report(options.backend).exists()):
        raise UserError(
            f"{run.path} has no parity of {options.backend} yet, by which an error is located: run its recipe again, "
            "with --only parity at least"
        )
    program = read(ProgramRecord, run.program / PROGRAM_RECORD)
    if program.failure is not None:
        raise UserError(
            f"{options.backend} cannot be compared value by value with the traced program, since {program.failure}. "
            f"{run.parity_report(options.backend)} has the outputs that differ"
        )


def _locate(run: RunFolder, artifact: Artifact, console: Console, options: Options) -> int:
    from bench.locate.job import LocateJob, likeliest_cases, locate
    from bench.parity.reference import Reference
    from bench.parity.report import ParityReport
    from export.record import read

    report = read(ParityReport, run.parity_report(artifact.name))
    reference = read(Reference, run.reference_record)
    job = LocateJob(
        artifact=str(run.artifact(artifact.name)),
        program=str(run.program),
        reference=str(run.reference),
        weights=str(run.weights),
        cases=likeliest_cases(report, reference),
        options=report.options,
        checks=tuple(check for check in report.checks if check.status == "fail" and check.places),
    )
    location = _child(run, f"locate-{artifact.name}", locate, job, options.json)
    _show(location, report, console)
    return GOOD if location.suspect is not None or report.status == "pass" else NOT_GOOD


def _audit(run: RunFolder, artifact: Artifact, console: Console, options: Options) -> int:
    from bench.locate.ranges import RangeJob, audit
    from bench.parity.reference import Reference
    from export.record import read

    reference = read(Reference, run.reference_record)
    job = RangeJob(
        program=str(run.program),
        reference=str(run.reference),
        signature=artifact.signature,
        cases=tuple(reference.indices("rows")),
    )
    ranges = _child(run, "range-audit", audit, job, options.json)
    for value in ranges.outside:
        console.say(f"{value.module or 'the model'}: {value.message} ({value.line})")
    console.say(f"{len(ranges.outside)} of {ranges.nodes_count} values leave the range of float16")
    return NOT_GOOD if ranges.outside else GOOD


def _child(run: RunFolder, name: str, task: Task[J, R], job: J, as_json: bool) -> R:
    """Run a task; its result, printed as JSON where that is asked for."""
    import json

    from export.record import read, to_json
    from export.worker import Failed
    from pipeline.run import RecipeRecord, held, workspace_of

    with held(run.path):
        end = workspace_of(run, read(RecipeRecord, run.recipe_record)).run(task, job, name)
    if isinstance(end, Failed):
        raise UserError(f"{name} {end.summary}\nThe whole story: {end.log}")
    if as_json:
        print(json.dumps(to_json(end.result), indent=1))
    return end.result


def _show(location: Location, report: ParityReport, console: Console) -> None:
    console.say(
        f"{report.artifact}: parity {report.status}" + "".join(f"\n  {reason}" for reason in report.reasons[:3])
    )
    suspect = location.suspect
    if suspect is None:
        if report.status != "pass":
            console.say(f"no single operator is at fault: {location.message}")
        return
    whole = "" if suspect.inherited_ratio is None else f"; {suspect.inherited_ratio:.3g} roundings in the whole run"
    own = ""
    if math.isfinite(suspect.local_ratio):  # else it was seen in the files, or in the answers as a whole
        own = f"  own error    {suspect.local_ratio:.3g} times eager's on the same inputs{whole}\n"
    between = (
        f"  in between   {', '.join(module or 'the model' for module in suspect.between)}\n" if suspect.between else ""
    )
    console.say(
        f"first at fault: {suspect.module or 'the model'}\n"
        f"  line         {suspect.line}\n"
        f"  operator     {suspect.operator} (here {suspect.runtime_operator}), value {suspect.node}\n"
        f"{own}"
        f"{between}"
        f"  because      {suspect.why}\n"
        f"  found by     {location.message} ({location.matched_count} of {location.nodes_count} values compared)"
    )
