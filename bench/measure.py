"""Measure all candidates in several fresh processes, and keep every sample.

A candidate that brings a process down is named, left out and given its cause; the measurement starts again without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.sample import BenchSpec, SampleJob, Series
from export.artifact import open_artifact
from export.backend import LoadOptions
from export.build import Source
from export.environment import Environment, environment
from export.record import Observed, Record, digest, from_json, observed
from export.worker import Desk, Outcome, run_child

_POLL_S = 0.5
"""How often the parent looks at a measuring child: seldom, since looking costs a core that is being measured."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of one process at one batch size."""

    process: int
    batch_rows: int
    calls_per_sample_count: int
    warmup_calls_count: int
    warmup_s: float
    samples_s: tuple[float, ...]
    """Seconds per call; sample i of every artifact of the session belongs to the same round."""


@dataclass(frozen=True, kw_only=True)
class Measurement(Record):
    """Raw timings of one artifact; statistics are derived when read."""

    SCHEMA: ClassVar[str] = "torchstone.measurement/1"

    key: str
    artifact: str
    artifact_sha256: str
    session: tuple[str, ...]
    """The artifacts that shared its processes; samples of another session do not pair with these."""
    options: LoadOptions
    spec: BenchSpec
    samples: tuple[Samples, ...]
    environment: Environment
    observed: Observed


@dataclass(frozen=True, kw_only=True)
class Session:
    """What to measure together, and how."""

    folders: Mapping[str, Path]
    """The artifacts' folders by name."""
    source: Source
    options: LoadOptions
    spec: BenchSpec
    samples: Path | None
    seed: int
    key: str


def measure_together(
    session: Session, desk: Desk, advance: Callable[[int], None]
) -> tuple[dict[str, Measurement], dict[str, Outcome]]:
    """Measurements by artifact, and how those that could not be measured ended.

    ``advance`` hears how many processes are done.
    """
    folders = dict(session.folders)
    dropped: dict[str, Outcome] = {}
    while folders:
        series, duration_s, failed = _all_processes(session, folders, desk, advance)
        if failed is None:
            return {name: _record(session, folders, name, series, duration_s) for name in folders}, dropped
        name, outcome = failed
        dropped[name] = outcome
        del folders[name]
    return {}, dropped


def _all_processes(
    session: Session, folders: Mapping[str, Path], desk: Desk, advance: Callable[[int], None]
) -> tuple[list[list[Series]], float, tuple[str, Outcome] | None]:
    """The series of every process; or the artifact that brought one down, and how."""
    series: list[list[Series]] = []
    duration_s = 0.0
    current = desk.folder / "measure.current"
    for process in range(session.spec.processes_count):
        job = SampleJob(
            artifacts=tuple(str(folder) for folder in folders.values()),
            source=session.source,
            options=session.options,
            spec=session.spec,
            samples=str(session.samples) if session.samples else None,
            seed=session.seed + process,
            current=str(current),
        )
        current.unlink(missing_ok=True)
        outcome = run_child(f"measure-{process}", "bench.sample:sample", job, desk, poll_s=_POLL_S)
        duration_s += outcome.duration_s
        if outcome.status != "done":
            culprit = current.read_text() if current.exists() else next(iter(folders))
            return [], duration_s, (culprit, outcome)
        series.append([from_json(Series, one) for one in outcome.value])
        advance(process + 1)
    current.unlink(missing_ok=True)
    return series, duration_s, None


def _record(
    session: Session, folders: Mapping[str, Path], name: str, series: list[list[Series]], duration_s: float
) -> Measurement:
    samples = tuple(
        Samples(
            process=process,
            batch_rows=one.batch_rows,
            calls_per_sample_count=one.calls_per_sample_count,
            warmup_calls_count=one.warmup_calls_count,
            warmup_s=one.warmup_s,
            samples_s=one.samples_s,
        )
        for process, all_series in enumerate(series)
        for one in all_series
        if one.artifact == name
    )
    return Measurement(
        key=session.key,
        artifact=name,
        artifact_sha256=digest(open_artifact(folders[name])),
        session=tuple(folders),
        options=session.options,
        spec=session.spec,
        samples=samples,
        environment=environment(),
        observed=observed(duration_s),
    )
