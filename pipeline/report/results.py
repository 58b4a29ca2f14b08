"""What a run came to, as the report takes it: from the stages, or read from the records of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.parity.report import ParityReport
from bench.timing.measurement import Measurement
from bench.verdict.judge import Verdict
from export.artifact import read_artifact
from export.record import read

if TYPE_CHECKING:
    from bench.run_folder import RunFolder
    from export.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class Results:
    """The verdict, and records by its rows' names, in the order of their columns."""

    verdict: Verdict
    artifacts: Mapping[str, Artifact]
    reports: Mapping[str, ParityReport]
    measurements: Mapping[str, Measurement]


def read_results(files: RunFolder) -> Results:
    """Those of a run that has a verdict.

    Raises:
        RecordError: a record is missing or altered.
    """
    verdict = read(Verdict, files.verdict)
    names = [row.name for row in verdict.rows]
    built = [name for name in names if name in files.artifact_names()]
    judged, measured = files.parity_reports(), [row.name for row in verdict.rows if row.speeds]
    return Results(
        verdict=verdict,
        artifacts={name: read_artifact(files.artifact(name)) for name in built},
        reports={name: read(ParityReport, judged[name]) for name in names if name in judged},
        measurements={name: read(Measurement, files.measurement(name)) for name in measured},
    )
