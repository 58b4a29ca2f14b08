"""Search the settings of each artifact's runtime for the fastest that the recipe's limits allow.

    python -m pipeline.tune RUN [options]

RUN is a folder, a recipe's name (its latest run) or RECIPE@KEY. What is found faster must pass parity as before; then
it is written down, and `pipeline.all` proves and measures the artifact with it from now on. Exit code 0: searched;
1: a faster setting changed the parity verdict; 2: usage or environment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from export.errors import UserError
from pipeline.cli import GOOD, NOT_GOOD, end

if TYPE_CHECKING:
    from bench.parity.report import ParityReport
    from bench.stats.effects import Effect
    from bench.timing.measure import Session
    from bench.tune import Tuning
    from export.artifact import Artifact
    from export.backend import LoadOptions
    from export.worker import Workspace
    from pipeline.console import Console


@dataclass(frozen=True)
class Options:
    """What to search."""

    run: tyro.conf.Positional[str]
    """A folder, a recipe's name, or RECIPE@KEY."""
    artifacts: tuple[str, ...] = ()
    """Only these; all that passed parity if left out."""
    batch_rows: tuple[int, ...] = ()
    """Batch sizes that count; the recipe's limit, else those that it measures."""
    threads: int | None = None
    """At most so many threads; all cores if left out."""
    processes: int = 5
    """Fresh processes of the last comparison."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    json: bool = False
    """Print the records as JSON, and nothing else."""


def main(arguments: Sequence[str]) -> int:
    """Search, prove, write down."""
    options = tyro.cli(Options, args=list(arguments), prog="python -m pipeline.tune", description=__doc__)
    from bench.tune import search, settings, tuning_file
    from export.environment import cores_count
    from export.record import encode, write
    from export.worker import Workspace
    from pipeline.console import Console
    from pipeline.run import find_run

    run = find_run(options.run, options.out)
    console = Console(json=options.json)
    workspace = Workspace(folder=run / "log")
    artifacts, reports = _proved(run, options.artifacts)
    session = _session(run, artifacts, reports, options)
    most = min(options.threads or cores_count(), cores_count())
    choices = {name: settings(one, reports[name].options, most) for name, one in artifacts.items()}
    started = time.monotonic()
    found = search(session, choices, workspace, lambda text: console.stage("tune", text))
    tunings = [
        _tuning(run, one, reports[name], found.get(name, {}), session, workspace, started)
        for name, one in artifacts.items()
    ]
    for tuning in tunings:
        write(tuning_file(run, tuning.artifact), tuning)
    _show(console, tunings)
    if options.json:
        print(f"[{','.join(encode(one).decode() for one in tunings)}]")
    return NOT_GOOD if any(one.refused for one in tunings) else GOOD


def _proved(run: Path, wanted: Sequence[str]) -> tuple[dict[str, Artifact], dict[str, ParityReport]]:
    """The source-free artifacts of the run that passed parity, and their reports."""
    from bench.parity.report import ParityReport
    from export.artifact import open_artifact
    from export.record import digest, read

    artifacts, reports = {}, {}
    for path in sorted((run / "parity").glob("*.json")):
        if path.stem == "calibration" or (wanted and path.stem not in wanted):
            continue
        report, artifact = read(ParityReport, path), open_artifact(run / "artifacts" / path.stem)
        if report.status == "pass" and report.artifact_sha256 == digest(artifact) and artifact.source_free:
            artifacts[path.stem], reports[path.stem] = artifact, report
    if missing := sorted(set(wanted) - artifacts.keys()):
        raise UserError(f"{run} has no artifact {missing[0]!r} that passed parity: python -m pipeline.all makes it")
    if not artifacts:
        raise UserError(f"{run} has no artifact that passed parity: python -m pipeline.all makes them")
    return artifacts, reports


def _session(run: Path, artifacts: dict[str, Artifact], reports: dict[str, ParityReport], options: Options) -> Session:
    """A measuring session on the recipe's own settings, save what the options change."""
    from bench.parity.jobs import SAMPLES
    from bench.timing.measure import Session
    from bench.timing.spec import BenchSpec
    from bench.verdict.limits import Limits
    from export.build import Source
    from export.environment import machine
    from export.record import from_json, key_of, read
    from pipeline.run import RecipeRecord

    record = read(RecipeRecord, run / "recipe.json")
    spec, limits = from_json(BenchSpec, record.settings["bench"]), from_json(Limits, record.settings["limits"])
    limited = limits.max_median_ms is not None or limits.max_p99_ms is not None
    rows = options.batch_rows or ((limits.batch_rows,) if limited else spec.batch_rows)
    spec = replace(spec, batch_rows=rows, processes_count=options.processes)
    samples = run / "parity" / "reference" / SAMPLES
    return Session(
        folders={name: run / "artifacts" / name for name in artifacts},
        options={name: report.options for name, report in reports.items()},
        source=Source(function="", argument=""),  # every candidate is source-free
        program=None,
        spec=spec,
        samples=samples if samples.exists() else None,
        seed=record.seed,
        key=key_of(stage="tune", spec=spec, machine=machine(), threads=options.threads),
    )


def _tuning(
    run: Path,
    artifact: Artifact,
    report: ParityReport,
    found: dict[LoadOptions, Effect],
    session: Session,
    workspace: Workspace,
    started: float,
) -> Tuning:
    """The fastest setting that is shown to be faster and passes parity as the present one does."""
    from bench.tune import Tuning, spelled
    from export.environment import machine
    from export.record import digest, observed
    from pipeline.reprove import changed, reprove

    refused: dict[str, str] = {}
    best = report.options
    for options, effect in sorted(found.items(), key=lambda pair: pair[1].ratio.value):
        if effect.comparison != "faster":
            continue
        folder = run / "artifacts" / artifact.name
        why = changed(reprove(run, folder, artifact, options, report, workspace), report, artifact.precision)
        if why is None:
            best = options
            break
        refused[spelled(options)] = why
    return Tuning(
        key=session.key,
        artifact=artifact.name,
        artifact_sha256=digest(artifact),
        machine=machine(),
        before=report.options,
        options=best,
        gains={spelled(options): effect for options, effect in found.items()},
        refused=refused,
        observed=observed(time.monotonic() - started),
    )


def _show(console: Console, tunings: Sequence[Tuning]) -> None:
    """A line per setting: what it gained."""
    from rich import box
    from rich.table import Table

    from bench.tune import gain, spelled

    table = Table("artifact", "setting", "against the present", "", box=box.SIMPLE)
    for one in tunings:
        table.add_row(one.artifact, spelled(one.before), "present", "kept" if one.options == one.before else "")
        for setting, effect in one.gains.items():
            verdict = one.refused.get(setting, "taken" if setting == spelled(one.options) else "")
            table.add_row("", setting, gain(effect), verdict)
    console.show(table)
    taken = [one.artifact for one in tunings if one.options != one.before]
    summary = (
        f"tuned: {', '.join(taken)}; pipeline.all uses these settings from now on" if taken else "nothing was faster"
    )
    console.say(summary)


if __name__ == "__main__":
    raise SystemExit(end(main))
