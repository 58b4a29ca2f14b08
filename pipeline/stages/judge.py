"""From all evidence to the verdict, the report and the ``latest`` link."""

from __future__ import annotations

from collections.abc import Mapping

from bench.parity.report import ParityReport
from bench.timing.measurement import Measurement, SessionRecord
from bench.verdict.judge import Evidence, Requirements, Verdict
from bench.verdict.judge import judge as judge_evidence
from export.artifact import Artifact
from export.errors import RecordError
from export.record import digest, read, write
from pipeline.report.page import write_report
from pipeline.report.results import Results
from pipeline.run import LATEST, Run, set_link
from pipeline.stages.children import Failures
from pipeline.stages.train import Trained


def judge(
    run: Run,
    trained: Trained,
    artifacts: Mapping[str, Artifact],
    reports: Mapping[str, ParityReport],
    session: SessionRecord | None,
    measurements: Mapping[str, Measurement],
    failures: Failures,
) -> Verdict:
    """Judge, write down, and make this the recipe's latest run; what has not changed keeps its file."""
    recipe = run.found.recipe
    evidence = [
        Evidence(
            name=entry.row(run.device),
            backend=entry.backend_name,
            required=name in recipe.must_be_good,
            artifact=artifacts.get(name),
            parity=reports.get(name),
            measurement=measurements.get(name),
            failure=failures.get(name),
        )
        for name, entry in recipe.entries.items()
    ]
    required = Requirements(
        limits=recipe.limits,
        metrics=trained.checkpoint.metrics,
        allow_no_reference=recipe.parity.allow_no_reference,
    )
    verdict = judge_evidence(digest(run.record), recipe.name, evidence, session, required)
    known = _known(run)
    if known is not None and digest(known) == digest(verdict):
        verdict = known
    else:
        write(run.files.verdict, verdict)
    results = Results(
        verdict=verdict,
        artifacts={artifact.name: artifact for artifact in artifacts.values()},
        reports={report.artifact: report for report in reports.values()},
        measurements={measured.artifact: measured for measured in measurements.values()},
    )
    write_report(run.files, run.record, results)
    set_link(run.folder, LATEST)
    return verdict


def _known(run: Run) -> Verdict | None:
    """The verdict that lies there, if one does and can be read; whatever else lies there is replaced."""
    try:
        return read(Verdict, run.files.verdict)
    except RecordError:
        return None
