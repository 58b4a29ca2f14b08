"""Each backend by itself: what was built and by which road, what really ran, what was found, and how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export import hints
from export.artifact import RECORD
from export.errors import RecordError
from pipeline.report import text

if TYPE_CHECKING:
    from bench.parity.report import ParityReport
    from bench.run_folder import RunFolder
    from bench.verdict.judge import Row, Verdict
    from export.artifact import Artifact

_TAIL_BYTES, _TAIL_LINES = 1 << 14, 30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a level has to say about one subject, where that is more than a pass."""

    level: str
    mark: str
    message: str


@dataclass(frozen=True, kw_only=True)
class BackendDetails:
    """One row of the table, unfolded."""

    name: str
    mark: str
    summary: str
    facts: Mapping[str, str]
    """How it was built, what ran; by name."""
    findings: tuple[Finding, ...]
    worst: str | None
    """The element that is farthest off, with its inputs, expected and got."""
    reproduce: str | None
    """The command that does the failed step again."""
    log: str | None
    """Relative to the page."""
    log_tail: str | None
    records: Mapping[str, str]
    """Files of the run, relative to the page, by what they are."""


def prepare_backends(
    files: RunFolder, verdict: Verdict, artifacts: Mapping[str, Artifact], reports: Mapping[str, ParityReport]
) -> tuple[BackendDetails, ...]:
    """All rows of the verdict, in their order."""
    return tuple(_details(files, row, verdict, artifacts.get(row.name), reports.get(row.name)) for row in verdict.rows)


def _details(
    files: RunFolder, row: Row, verdict: Verdict, artifact: Artifact | None, report: ParityReport | None
) -> BackendDetails:
    built = {name.replace("_", " "): fact for name, fact in artifact.facts.items()} if artifact else {}
    ran = {f"ran: {name.replace('_', ' ')}": fact for name, fact in (report.witness.evidence if report else {}).items()}
    settings = {"settings": row.options.summary} if row.options else {}
    return BackendDetails(
        name=row.name,
        mark=text.mark(row, verdict),
        summary=text.note(row, verdict) or row.why_not or "",
        facts=built | settings | ran,
        findings=tuple(
            Finding(level=check.level, mark=text.CHECK_MARKS[check.status], message=f"{check.subject}: {check.message}")
            for check in (report.checks if report else ())
            if check.status != "pass"
        ),
        worst=report.worst.text if report and report.worst else None,
        reproduce=f"sh {shlex.quote(str(hints.place(files.path / row.reproduce)))}" if row.reproduce else None,
        log=row.log,
        log_tail=_tail(files.path / row.log) if row.log else None,
        records={what: str(path.relative_to(files.path)) for what, path in records(files, row.name).items()},
    )


def records(files: RunFolder, name: str) -> dict[str, Path]:
    """The records of an artifact, its parity, its raw samples, as far as they are there; none of a name that would lead
    out of the run.
    """
    try:
        places = {
            "artifact": files.artifact(name) / RECORD,
            "parity": files.parity_report(name),
            "raw samples": files.measurement(name),
        }
    except RecordError:
        return {}
    return {what: path for what, path in places.items() if path.exists()}


def _tail(log: Path) -> str | None:
    """The last lines of a log; None if it is gone."""
    if not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])
