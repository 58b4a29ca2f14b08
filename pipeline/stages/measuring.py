"""From artifacts that passed parity to their timings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.measure import Measurement, Session, measure_together
from bench.parity.jobs import SAMPLES
from bench.parity.report import ParityReport
from export.artifact import Artifact
from export.environment import cores_count, machine
from export.record import digest, write
from pipeline.run import Run
from pipeline.stages.children import Failures, failure, load_options, reused
from pipeline.stages.proving import REFERENCE
from pipeline.stages.training import Trained


def measure(
    run: Run,
    trained: Trained,
    artifacts: Mapping[str, Artifact],
    reports: Mapping[str, ParityReport],
    failures: Failures,
) -> dict[str, Measurement]:
    """Timings of every artifact that may be timed: a wrong one never is."""
    recipe = run.found.recipe
    fit = {"pass", "no-reference"} if recipe.parity.allow_no_reference else {"pass"}
    chosen = {name: artifacts[name] for name, report in reports.items() if report.status in fit}
    if not chosen:
        return {}
    key = run.key(
        "measure",
        tools=("bench", "export"),
        artifacts={name: digest(artifact) for name, artifact in chosen.items()},
        spec=recipe.bench,
        machine=machine(),
        device=run.device,
        threads=cores_count(),
        seed=recipe.seed,
    )
    if (known := _known(run, chosen, key)) is not None:
        return known
    samples = run.folder / REFERENCE / SAMPLES
    session = Session(
        folders={artifact.name: run.folder / "artifacts" / artifact.name for artifact in chosen.values()},
        source=trained.source,
        options=load_options(run),
        spec=recipe.bench,
        samples=samples if samples.exists() else None,
        seed=recipe.seed,
        key=key,
    )
    with run.console.bar("measure", recipe.bench.processes_count) as advance:
        records, dropped = measure_together(session, run.desk, advance)
    backends = {artifact.name: name for name, artifact in chosen.items()}
    for name, outcome in dropped.items():
        failures[backends[name]] = failure(run, "measure", outcome)
    for name, record in records.items():
        write(_path(run, name), record)
    run.console.stage("measure", f"{len(records)} candidates in {recipe.bench.processes_count} fresh processes")
    return {backends[name]: record for name, record in records.items()}


def _known(run: Run, chosen: Mapping[str, Artifact], key: str) -> dict[str, Measurement] | None:
    """The measurements of an earlier session with the same key, if it covers all that are chosen."""
    known: dict[str, Measurement] = {}
    for name, artifact in chosen.items():
        record = reused(run, Measurement, _path(run, artifact.name), key)
        if record is None:
            return None
        known[name] = record
        at = record.observed.at
    run.console.stage("measure", f"measured {at}, reused")
    return known


def _path(run: Run, name: str) -> Path:
    return run.folder / "measurements" / f"{name}.json"
