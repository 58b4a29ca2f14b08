"""Measure all candidates in several fresh processes, and keep every sample.

A candidate that brings a process down is named, left out and given its cause; the measurement starts again without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from bench.sample import BenchSpec, Sampled, SampleJob
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
    left_out: dict[str, str]
    """By batch size: why it was not measured."""
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
        started = time.monotonic()
        sampled, failed = _all_processes(session, folders, desk, advance)
        if failed is None:
            duration_s = time.monotonic() - started
            return {name: _record(session, folders, name, sampled, duration_s) for name in folders}, dropped
        name, outcome = failed
        dropped[name] = outcome
        del folders[name]
    return {}, dropped


def _all_processes(
    session: Session, folders: Mapping[str, Path], desk: Desk, advance: Callable[[int], None]
) -> tuple[list[Sampled], tuple[str, Outcome] | None]:
    """What every process measured; or the artifact that brought one down, and how."""
    sampled: list[Sampled] = []
    current = desk.folder / "measure.current"
    spec = session.spec
    for process in range(spec.processes_count):
        job = SampleJob(
            artifacts=tuple(str(folder) for folder in folders.values()),
            source=session.source,
            options=session.options,
            spec=spec,
            samples=str(session.samples) if session.samples else None,
            seed=session.seed + process,
            current=str(current),
        )
        current.unlink(missing_ok=True)
        outcome = run_child(f"measure-{process}", "bench.sample:sample", job, desk, poll_s=_POLL_S)
        if outcome.status != "done":
            culprit = current.read_text() if current.exists() else next(iter(folders))
            return [], (culprit, outcome)
        sampled.append(from_json(Sampled, outcome.value))
        # What one process found too slow the others need not try.
        spec = replace(spec, batch_rows=tuple(n for n in spec.batch_rows if str(n) not in sampled[-1].left_out))
        advance(process + 1)
    current.unlink(missing_ok=True)
    return sampled, None


def _record(
    session: Session, folders: Mapping[str, Path], name: str, sampled: list[Sampled], duration_s: float
) -> Measurement:
    left_out = {rows: reason for one in sampled for rows, reason in one.left_out.items()}
    samples = tuple(
        Samples(
            process=process,
            batch_rows=one.batch_rows,
            calls_per_sample_count=one.calls_per_sample_count,
            warmup_calls_count=one.warmup_calls_count,
            warmup_s=one.warmup_s,
            samples_s=one.samples_s,
        )
        for process, of_process in enumerate(sampled)
        for one in of_process.series
        if one.artifact == name and str(one.batch_rows) not in left_out
    )
    return Measurement(
        key=session.key,
        artifact=name,
        artifact_sha256=digest(open_artifact(folders[name])),
        session=tuple(folders),
        options=session.options,
        spec=session.spec,
        samples=samples,
        left_out=left_out,
        environment=environment(),
        observed=observed(duration_s),
    )
