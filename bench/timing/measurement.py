"""What measuring leaves on disk: every sample. Statistics are derived when read (``bench/verdict/figures.py``)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from bench.timing.cold import ColdStart
from bench.timing.concurrency import ConcurrencySample
from bench.timing.conditions import Conditions
from bench.timing.roofline import Roofline
from bench.timing.spec import BenchSpec
from export.backend import LoadOptions
from export.environment import Environment
from export.errors import RecordError, UserError
from export.record import OMITTED, Observed, Record

CONTROL = "control"
"""Label of the artifact that is measured twice: what differs between the two is noise."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of one process at one batch size and thread count."""

    process: int
    threads_count: int
    batch_rows: int
    calls_per_sample_count: int
    warmup_calls_count: int
    warmup_s: float
    samples_s: tuple[float, ...]
    """Seconds per bound call until its answer is there: the mean of each block; inputs and outputs stay on the device.

    Sample i of every artifact of the session belongs to the same round.
    """
    queued_s: tuple[float, ...] = field(default=(), metadata=OMITTED)
    """The same per call of blocks that a GPU is given at once, and whose last call is waited for; empty on the CPU."""
    checked_s: tuple[float, ...]
    """Seconds per checked call, NumPy in and out, fresh outputs; empty at other thread counts than the proved one."""
    calls_s: tuple[float, ...]
    """Seconds of single bound calls, in order; empty where a call is too short to be timed alone."""
    joules_per_call: float | None
    """Energy of the whole package or GPU, idling included, from the first process; None where nothing counts it."""
    spoilt_count: int = field(default=0, metadata=OMITTED)
    """How many of ``samples_s`` were taken while others had a core that the process wanted."""


@dataclass(frozen=True, kw_only=True)
class Measurement(Record):
    """Raw timings of one artifact; statistics are derived when read."""

    SCHEMA: ClassVar[str] = "torchstone.measurement/3"

    key: str
    artifact: str
    artifact_sha256: str
    precision: str
    options: LoadOptions
    samples: tuple[Samples, ...]
    concurrency: tuple[ConcurrencySample, ...]
    cold_starts: tuple[ColdStart, ...]
    observed: Observed


@dataclass(frozen=True, kw_only=True)
class SessionRecord(Record):
    """What the measurements of one session share; samples of another session do not pair with these."""

    SCHEMA: ClassVar[str] = "torchstone.session/2"

    key: str
    artifacts: tuple[str, ...]
    """Those that shared its processes."""
    spec: BenchSpec
    control: str
    """The artifact that was loaded and measured twice."""
    control_samples: tuple[Samples, ...]
    """The samples of its second self."""
    empty_block_s: tuple[float, ...]
    """Per process: what the harness adds to a call timed in a block."""
    empty_call_s: tuple[float, ...]
    """The same for a call timed alone."""
    conditions: tuple[Conditions, ...]
    """Per process."""
    roofline: Roofline | None
    roofline_failure: str | None
    """Why there is none."""
    left_out: dict[str, str]
    """By batch size: why it was not measured."""
    environment: Environment
    observed: Observed

    def check_own(self, measurements: Iterable[Measurement]) -> None:
        """Samples pair by round, and rounds exist within a session alone: refuse those of another.

        Raises:
            UserError: one was taken in another session; it is named.
            RecordError: samples are not there for every process, not as many in each, or no times.
        """
        rounds_count: dict[tuple[int, int], int] = {}
        for measured in measurements:
            if measured.key != self.key:
                raise UserError(
                    f"{measured.artifact} was measured {measured.observed.at} in another session ({measured.key[:12]}) "
                    f"than what it is compared with ({self.key[:12]}, {self.observed.at}): measure them together"
                )
            threads_count = measured.options.threads_count
            tested = [samples for samples in measured.samples if samples.threads_count == threads_count]
            _check_times(measured.artifact, measured.samples)
            _check_paired(measured.artifact, tested, self.spec.processes, rounds_count)
        _check_times(CONTROL, self.control_samples)
        _check_paired(CONTROL, self.control_samples, self.spec.processes, rounds_count)


def _check_times(artifact: str, series: Iterable[Samples]) -> None:
    for samples in series:
        times_s = (*samples.samples_s, *samples.queued_s, *samples.checked_s, *samples.calls_s)
        if not samples.samples_s or not all(0.0 < time_s < math.inf for time_s in times_s):
            raise RecordError(f"the samples of {artifact} are not all times: measure it again")


def _check_paired(
    artifact: str, series: Iterable[Samples], processes_count: int, rounds_count: dict[tuple[int, int], int]
) -> None:
    """Samples of each process at every batch size, as many as all others have; ``rounds_count`` collects how many."""
    processes: dict[int, list[int]] = {}
    for samples in series:
        processes.setdefault(samples.batch_rows, []).append(samples.process)
        count = len(samples.samples_s)
        if rounds_count.setdefault((samples.batch_rows, samples.process), count) != count:
            raise RecordError(f"{artifact} has {count} samples where others have another number: measure it again")
    if any(sorted(numbers) != list(range(processes_count)) for numbers in processes.values()):
        raise RecordError(f"{artifact} was not measured in each of {processes_count} processes: measure it again")
