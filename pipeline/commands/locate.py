"""Name the module, operator and line of code where an artifact first departs from the model.

    python -m pipeline.locate RUN BACKEND [options]

RUN is a folder, a recipe's name (its latest run) or RECIPE@KEY. Exit code 0: a place is named, or nothing is wrong; 1:
the artifact is wrong and no single place is at fault; 2: usage or environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro

from export.errors import UserError
from pipeline.cli import GOOD, NOT_GOOD, end

if TYPE_CHECKING:
    from bench.locate.job import Location
    from bench.parity.report import ParityReport
    from export.artifact import Artifact
    from pipeline.console import Console

T = TypeVar("T")


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


def main(arguments: Sequence[str]) -> int:
    """Locate, in a process of its own."""
    options = tyro.cli(Options, args=list(arguments), prog="python -m pipeline.locate", description=__doc__)
    from export.artifact import RECORD, Artifact
    from export.record import read
    from pipeline.console import Console
    from pipeline.run import find_run

    run = find_run(options.run, options.out)
    folder = run / "artifacts" / options.backend
    if not (folder / RECORD).exists():
        built = sorted(path.parent.name for path in (run / "artifacts").glob(f"*/{RECORD}"))
        raise UserError(f"{run} has no artifact {options.backend!r}, it has {', '.join(built)}")
    console = Console(json=options.json)
    artifact = read(Artifact, folder / RECORD)
    if options.range_audit:
        return _audit(run, artifact, console, options)
    return _locate(run, folder, artifact, console, options)


def _locate(run: Path, folder: Path, artifact: Artifact, console: Console, options: Options) -> int:
    from bench.locate.job import LocateJob, Location, likeliest_cases
    from bench.parity.jobs import REFERENCE_RECORD, Reference
    from bench.parity.report import ParityReport
    from export.record import read
    from pipeline.training import loop as trainer

    report = read(ParityReport, run / "parity" / f"{artifact.name}.json")
    reference = read(Reference, run / "parity" / "reference" / REFERENCE_RECORD)
    job = LocateJob(
        artifact=str(folder),
        program=str(run / "program"),
        reference=str(run / "parity" / "reference"),
        weights=str(run / "checkpoint" / trainer.WEIGHTS),
        cases=likeliest_cases(report, reference),
        options=report.options,
    )
    location = _child(run, f"locate-{artifact.name}", "bench.locate.job:locate", job, Location, options.json)
    _show(location, report, console)
    return GOOD if location.suspect is not None or report.status == "pass" else NOT_GOOD


def _audit(run: Path, artifact: Artifact, console: Console, options: Options) -> int:
    from bench.locate.ranges import RangeJob, Ranges
    from bench.parity.jobs import REFERENCE_RECORD, Reference
    from export.record import read

    reference = read(Reference, run / "parity" / "reference" / REFERENCE_RECORD)
    job = RangeJob(
        program=str(run / "program"),
        reference=str(run / "parity" / "reference"),
        signature=artifact.signature,
        cases=tuple(reference.indices("rows")),
    )
    ranges = _child(run, "range-audit", "bench.locate.ranges:audit", job, Ranges, options.json)
    for one in ranges.outside:
        console.say(f"{one.module or 'the model'}: {one.message} ({one.line})")
    console.say(f"{len(ranges.outside)} of {ranges.nodes_count} values leave the range of float16")
    return NOT_GOOD if ranges.outside else GOOD


def _child(run: Path, name: str, function: str, job: object, kind: type[T], as_json: bool) -> T:
    """Run a job; its result, printed as JSON where that is asked for."""
    import json

    from export.record import from_json
    from export.worker import Workspace, run_child

    outcome = run_child(name, function, job, Workspace(folder=run / "log"))
    if outcome.status != "done":
        raise UserError(f"{name} {outcome.status}: {outcome.cause}\nThe whole story: {outcome.log}")
    if as_json:
        print(json.dumps(outcome.value, indent=1))
    return from_json(kind, outcome.value)


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
    between = f"\n  in between   {', '.join(one or 'the model' for one in suspect.between)}" if suspect.between else ""
    console.say(
        f"first at fault: {suspect.module or 'the model'}\n"
        f"  line         {suspect.line}\n"
        f"  operator     {suspect.operator} (here {suspect.runtime_operator}), value {suspect.node}\n"
        f"  own error    {suspect.local_ratio:.3g} times eager's on the same inputs{whole}"
        f"{between}\n"
        f"  because      {suspect.why}\n"
        f"  found by     {location.message} ({location.matched_count} of {location.nodes_count} values compared)"
    )


if __name__ == "__main__":
    raise SystemExit(end(main))
