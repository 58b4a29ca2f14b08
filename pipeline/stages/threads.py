"""From measurements to the settings that each artifact is compared and shipped with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.parity.report import ParityReport
from bench.timing.measurement import Measurement
from bench.verdict.threads import better_options
from export.artifact import Artifact, ProgramRecord
from export.backend import LoadOptions
from export.record import write
from pipeline.run import Run
from pipeline.stages.parity import ParityStage
from pipeline.stages.train import Trained

Settled = tuple[dict[str, ParityReport], dict[str, Measurement]]
"""By backend, the report and the measurement at the settings that it is compared with."""


def at_better_threads(
    run: Run,
    trained: Trained,
    program: ProgramRecord,
    artifacts: Mapping[str, Artifact],
    reports: Mapping[str, ParityReport],
    measurements: Mapping[str, Measurement],
) -> Settled:
    """Every artifact at the thread count at which it is faster, if its parity there is what it was at the asked one."""
    tie_ratio = run.found.recipe.bench.tie_ratio
    stage: ParityStage | None = None
    settled: Settled = ({**reports}, {})
    for name, measured in measurements.items():
        asked = reports[name]
        options = better_options(measured, asked.options, tie_ratio)
        if options != asked.options:
            stage = stage or ParityStage(run, trained, program)
            settled[0][name] = _rechecked(run, stage, artifacts[name], asked, options)
        _keep(run, artifacts[name].name, asked, settled[0][name])
        settled[1][name] = replace(measured, options=settled[0][name].options)
        if measured != settled[1][name]:
            write(run.files.measurement(artifacts[name].name), settled[1][name])
    return settled


def _rechecked(
    run: Run, stage: ParityStage, artifact: Artifact, asked: ParityReport, options: LoadOptions
) -> ParityReport:
    """The report with these settings, or the asked one where they do not pass as it did."""
    report = stage.recheck(artifact, options)
    faster = f"{artifact.name}: faster with {options.summary} than with {asked.options.summary}"
    if not isinstance(report, ParityReport) or report.status != asked.status:
        why = report.summary if isinstance(report, ParityReport) else report.cause
        run.console.stage("measure", f"{faster}, and compared with the latter: parity with the former is {why}")
        return asked
    run.console.stage("measure", f"{faster}, parity there {report.summary}")
    return report


def _keep(run: Run, artifact: str, asked: ParityReport, settled: ParityReport) -> None:
    """The settled report where everybody looks for it; the asked one beside, for a rerun, if that is another."""
    beside = run.files.parity_as_asked(artifact)
    if settled is not asked:
        write(beside, asked)
        write(run.files.parity_report(artifact), settled)
    elif beside.exists():
        write(run.files.parity_report(artifact), asked)
        beside.unlink()
