"""From measurements to the settings that each artifact is compared and shipped with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from bench.parity.report import ParityReport
from bench.timing.measurement import Measurement, SessionRecord
from bench.verdict.figures import Rounds, figures
from bench.verdict.judge import Failure
from bench.verdict.threads import better_options, is_spoilt
from export import registry
from export.artifact import Artifact, ProgramRecord
from export.backend import LoadOptions
from export.record import write
from pipeline.run import Run
from pipeline.stages.children import side_by_side
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
    measured_together: tuple[SessionRecord | None, Mapping[str, Measurement]],
) -> Settled:
    """Every artifact at the thread count at which it is faster, if its parity there is what it was at the asked one.

    A count at which the recipe's limits do not hold is none of the better ones, unless they hold at none.
    """
    session, measurements = measured_together
    better = _better(run, session, artifacts, reports, measurements) if session is not None else {}
    settled = {**reports}
    if better:
        stage = ParityStage(run, trained, program)

        def recheck(name: str) -> ParityReport | Failure:
            asked = reports[name]
            disturbed = is_spoilt(measurements[name], asked.options)
            return _rechecked(run, stage, artifacts[name], asked, better[name], disturbed=disturbed)

        settled |= side_by_side(run, "measure", better, recheck, {})
    for name, asked in reports.items():
        _keep(run, artifacts[name].name, asked, settled[name])
    measured_there = {name: replace(measured, options=settled[name].options) for name, measured in measurements.items()}
    for name, measured in measured_there.items():
        if measured != measurements[name]:
            write(run.files.measurement(artifacts[name].name), measured)
    return settled, measured_there


def _better(
    run: Run,
    session: SessionRecord,
    artifacts: Mapping[str, Artifact],
    reports: Mapping[str, ParityReport],
    measurements: Mapping[str, Measurement],
) -> dict[str, LoadOptions]:
    """The settings of those that are faster with other ones."""
    tie_ratio = run.found.recipe.bench.tie_ratio
    options = {
        name: better_options(
            measured, reports[name].options, tie_ratio, partial(_breaks, run, session, artifacts[name], measured)
        )
        for name, measured in measurements.items()
    }
    return {name: faster for name, faster in options.items() if faster != reports[name].options}


def _breaks(run: Run, session: SessionRecord, artifact: Artifact, measured: Measurement, options: LoadOptions) -> bool:
    """Whether the recipe's limits do not hold with these settings."""
    figures_there = figures(Rounds(session, {measured.artifact: replace(measured, options=options)}), None)
    device_bound = registry.get(artifact.backend).device_bound
    limits = run.found.recipe.limits
    return bool(limits.broken_by(figures_there[measured.artifact], artifact.size_bytes, device_bound=device_bound))


def _rechecked(
    run: Run, stage: ParityStage, artifact: Artifact, asked: ParityReport, options: LoadOptions, *, disturbed: bool
) -> ParityReport:
    """The report with these settings, or the asked one where they do not pass as it did."""
    report = stage.recheck(artifact, options)
    how = "better known with {} than, beside others, with {}" if disturbed else "faster with {} than with {}"
    faster = f"{artifact.name}: {how.format(options.summary, asked.options.summary)}"
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
