"""Search the settings of each artifact's runtime for the fastest that the recipe's limits allow.

    python -m pipeline.tune RUN [options]

RUN is a folder, a recipe's name (its latest run) or RECIPE@KEY. What is found faster must pass parity as before; then
it is written down, and `pipeline.all` tests and measures the artifact with it from now on. Exit code 0: searched;
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
from pipeline.cli import GOOD, NOT_GOOD

if TYPE_CHECKING:
    from bench.parity.report import ParityReport
    from bench.run_folder import RunFolder
    from bench.timing.processes.session import Session
    from bench.tune import Searched, Tuning
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


def main(arguments: Sequence[str], command: str = "python -m pipeline.tune") -> int:
    """Search, check parity again, write down."""
    options = tyro.cli(Options, args=list(arguments), prog=command, description=__doc__)
    from pipeline.commands.named import find_run
    from pipeline.run import held

    run = find_run(options.run, options.out)
    with held(run.path):
        return _tune(run, options)


def _tune(run: RunFolder, options: Options) -> int:
    from bench.tune import search
    from export import registry
    from export.environment import cores_count
    from export.record import encode, read, write
    from pipeline.console import Console
    from pipeline.run import RecipeRecord, workspace_of

    console = Console(json=options.json)
    recheck = Recheck(run, workspace_of(run, read(RecipeRecord, run.recipe_record)))
    artifacts, reports = _passed(run, options.artifacts)
    session = _session(run, artifacts, reports, options)
    most = min(options.threads or cores_count(), cores_count())
    choices = {
        name: registry.get(artifact.backend).settings(reports[name].options, most)
        for name, artifact in artifacts.items()
    }
    started = time.monotonic()
    searched = search(session, choices, recheck.workspace, lambda text: console.stage("tune", text))
    tunings = [
        _tuning(artifact, reports[name], searched[name], session.key, recheck, started)
        for name, artifact in artifacts.items()
    ]
    for tuning in tunings:
        write(run.tuning(tuning.artifact), tuning)
    _show(console, tunings)
    if options.json:
        print(f"[{','.join(encode(tuning).decode() for tuning in tunings)}]")
    return NOT_GOOD if any(tuning.refused for tuning in tunings) else GOOD


def _passed(run: RunFolder, wanted: Sequence[str]) -> tuple[dict[str, Artifact], dict[str, ParityReport]]:
    """The source-free artifacts of the run that passed parity, and their reports."""
    from bench.parity.report import ParityReport
    from export.artifact import open_artifact
    from export.record import digest, read

    artifacts, reports = {}, {}
    for name, path in run.parity_reports().items():
        if wanted and name not in wanted:
            continue
        report, artifact = read(ParityReport, path), open_artifact(run.artifact(name))
        if report.status == "pass" and report.artifact_sha256 == digest(artifact) and artifact.source_free:
            artifacts[name], reports[name] = artifact, report
    if missing := sorted(set(wanted) - artifacts.keys()):
        raise UserError(f"{run.path} has no artifact {missing[0]!r} that passed parity: run its recipe again")
    if not artifacts:
        raise UserError(f"{run.path} has no artifact that passed parity: run its recipe again")
    return artifacts, reports


def _session(
    run: RunFolder, artifacts: dict[str, Artifact], reports: dict[str, ParityReport], options: Options
) -> Session:
    """A measuring session on the recipe's own settings, save what the options change."""
    from bench.timing.processes.session import Session
    from bench.timing.spec import BenchSpec
    from bench.verdict.limits import Limits
    from export.build import Source
    from export.environment import machine
    from export.record import key_of, read
    from pipeline.run import RecipeRecord

    recipe = read(RecipeRecord, run.recipe_record)
    spec, limits = recipe.setting("bench", BenchSpec), recipe.setting("limits", Limits)
    limited = limits.max_median_ms is not None or limits.max_p99_ms is not None
    rows = options.batch_rows or ((limits.batch_rows,) if limited else spec.batch_rows)
    spec = replace(spec, batch_rows=rows, processes_count=options.processes)
    return Session(
        folders={name: run.artifact(name) for name in artifacts},
        options={name: report.options for name, report in reports.items()},
        source=Source(function="", argument=""),  # every candidate is source-free
        program=None,
        spec=spec,
        samples=run.existing_samples(),
        seed=recipe.seed,
        key=key_of(stage="tune", spec=spec, machine=machine(), threads=options.threads),
    )


@dataclass(frozen=True)
class Recheck:
    """Parity once more, of an artifact with other settings, as the run itself checked it."""

    run: RunFolder
    workspace: Workspace

    def differs(self, artifact: Artifact, options: LoadOptions, before: ParityReport) -> str | None:
        """How the settings change what parity finds; None if they do not."""
        from bench.parity.run import ParityRun, differs

        folder = self.run.artifact(artifact.name)
        report = ParityRun.of(self.run, before.spec).judge(folder, options, self.workspace, before.key)
        return differs(report, before, artifact)


def _tuning(
    artifact: Artifact,
    report: ParityReport,
    searched: Searched,
    key: str,
    recheck: Recheck,
    started: float,
) -> Tuning:
    """The fastest setting that is shown to be faster and passes parity as the present one does."""
    from bench.tune import Tuning
    from export.environment import machine
    from export.record import digest, observed

    refused: dict[str, str] = {}
    best = report.options
    for options, effect in sorted(searched.effects.items(), key=lambda pair: pair[1].ratio.value):
        if effect.comparison != "faster":
            continue
        why = recheck.differs(artifact, options, report)
        if why is None:
            best = options
            break
        refused[options.summary] = why
    return Tuning(
        key=key,
        artifact=artifact.name,
        artifact_sha256=digest(artifact),
        machine=machine(),
        before=report.options,
        options=best,
        gains={options.summary: effect for options, effect in searched.effects.items()},
        refused=refused,
        failed={options.summary: why for options, why in searched.failed.items()},
        observed=observed(time.monotonic() - started),
    )


def _show(console: Console, tunings: Sequence[Tuning]) -> None:
    """A line per setting: what it gained."""
    from rich import box
    from rich.table import Table

    from bench.tune import gain

    table = Table("artifact", "setting", "against the present", "", box=box.SIMPLE)
    for tuning in tunings:
        table.add_row(
            tuning.artifact, tuning.before.summary, "present", "kept" if tuning.options == tuning.before else ""
        )
        for setting, effect in tuning.gains.items():
            verdict = tuning.refused.get(setting, "taken" if setting == tuning.options.summary else "")
            table.add_row("", setting, gain(effect), verdict)
        for setting, why in tuning.failed.items():
            table.add_row("", setting, "-", why)
    console.show(table)
    taken = ", ".join(tuning.artifact for tuning in tunings if tuning.options != tuning.before)
    console.say(f"tuned: {taken}; pipeline.all uses these settings from now on" if taken else "nothing was faster")
