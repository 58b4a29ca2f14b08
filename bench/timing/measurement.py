"""What measuring leaves on disk: every sample. Statistics are derived when read (``bench/verdict/figures.py``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from bench.timing.cold import ColdStart
from bench.timing.concurrency import ConcurrencySample
from bench.timing.conditions import Conditions
from bench.timing.roofline import Roofline
from bench.timing.spec import BenchSpec
from export.backend import LoadOptions
from export.environment import Environment
from export.errors import UserError
from export.record import Observed, Record

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
    """Seconds per bound call, inputs and outputs where the model runs: the mean of each block.

    Sample i of every artifact of the session belongs to the same round.
    """
    checked_s: tuple[float, ...]
    """Seconds per checked call, NumPy in and out, fresh outputs; empty at other thread counts than the proved one."""
    calls_s: tuple[float, ...]
    """Seconds of single bound calls, in order; empty where a call is too short to be timed alone."""
    joules_per_call: float | None
    """Energy of the whole processor package or GPU, idling included; None where nothing counts it."""


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
        """
        for measured in measurements:
            if measured.key != self.key:
                raise UserError(
                    f"{measured.artifact} was measured {measured.observed.at} in another session ({measured.key[:12]}) "
                    f"than what it is compared with ({self.key[:12]}, {self.observed.at}): measure them together"
                )
