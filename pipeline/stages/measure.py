"""From artifacts that passed parity to their timings."""

from __future__ import annotations

from collections.abc import Mapping

from bench.parity.report import ParityReport
from bench.timing.measure import measure_together, steps_count
from bench.timing.measurement import Measurement, SessionRecord
from bench.timing.processes.session import Session
from bench.verdict.figures import Rounds, figures
from export.artifact import Artifact, ProgramRecord
from export.environment import machine
from export.errors import TorchstoneError
from export.record import digest, write
from pipeline.run import Run
from pipeline.stages.children import Failures, failure, reused
from pipeline.stages.train import Trained

Found = tuple[SessionRecord | None, dict[str, Measurement]]
"""What the measurements share (None if there are none), and the measurements by backend."""


def measure(
    run: Run,
    trained: Trained,
    program: ProgramRecord,
    artifacts: Mapping[str, Artifact],
    reports: Mapping[str, ParityReport],
    failures: Failures,
) -> Found:
    """Timings of every artifact that may be timed: a wrong one never is."""
    recipe = run.found.recipe
    fit = {"pass", "no-reference"} if recipe.parity.allow_no_reference else {"pass"}
    chosen = {name: artifacts[name] for name, report in reports.items() if report.status in fit}
    if not chosen:
        return None, {}
    key = run.key(
        "measure",
        tools=("bench", "export"),
        artifacts={name: digest(artifact) for name, artifact in chosen.items()},
        spec=recipe.bench,
        machine=machine(),
        options={name: reports[name].options for name in chosen},
        seed=recipe.seed,
    )
    if (known := _known(run, chosen, key)) is not None:
        return known
    session = Session(
        folders={artifact.name: run.files.artifact(artifact.name) for artifact in chosen.values()},
        options={artifact.name: reports[name].options for name, artifact in chosen.items()},
        source=trained.source,
        program=None if program.failure else run.files.program,
        spec=recipe.bench,
        samples=run.files.existing_samples(),
        seed=recipe.seed,
        key=key,
    )
    with run.console.bar("measure", steps_count(session)) as advance:
        measured = measure_together(session, run.workspace, advance)
    backends = {artifact.name: name for name, artifact in chosen.items()}
    for name, end in measured.dropped.items():
        failures[backends[name]] = failure(run, "measure", end)
    for name, record in measured.measurements.items():
        write(run.files.measurement(name), record)
    if measured.session is not None:
        write(run.files.session, measured.session)
    count = len(measured.measurements)
    run.console.stage("measure", f"{count} candidates in {recipe.bench.processes} fresh processes")
    return measured.session, {backends[name]: record for name, record in measured.measurements.items()}


def _known(run: Run, chosen: Mapping[str, Artifact], key: str) -> Found | None:
    """The measurements of an earlier session with the same key, if it covers all that are chosen."""
    known: dict[str, Measurement] = {}
    for name, artifact in chosen.items():
        record = reused(run, Measurement, run.files.measurement(artifact.name), key)
        if record is None or len(record.cold_starts) < run.found.recipe.bench.cold_starts:
            return None  # one that did not start is measured anew
        known[name] = record
    session = reused(run, SessionRecord, run.files.session, key)
    if session is None:
        return None
    try:
        figures(Rounds(session, {record.artifact: record for record in known.values()}), None)
    except (TorchstoneError, ArithmeticError, LookupError, TypeError, ValueError) as error:  # nonsense in valid records
        run.console.say(f"measured anew, the samples on disk do not hold together: {type(error).__name__}: {error}")
        return None
    run.console.stage("measure", f"measured {session.observed.at}, reused")
    return session, known
