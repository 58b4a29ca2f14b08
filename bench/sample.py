"""The measuring job: one fresh process that holds every candidate, and times them in random interleaved rounds.

Order matters on a machine that changes speed while it measures: candidates are loaded, and in every round timed, in an
order drawn from the seed, so that drift falls on all alike and ratios within a round stay fair. A sample is the mean of
a block of calls, long enough that reading the clock costs nothing.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.clock import now_s, synchroniser
from bench.parity.cases import case_inputs
from export import backend as backends
from export.arrays import Array, to_numpy, to_torch
from export.backend import Bound, LoadOptions, Runner
from export.build import Source
from export.record import from_json
from export.signature import Signature

BUFFERS_COUNT = 4
"""Inputs rotate among this many buffers, so that no runtime sees the same memory twice in a row."""
_CROSSED = 1e-3


@dataclass(frozen=True, kw_only=True)
class BenchSpec:
    """How latency and throughput are measured."""

    batch_rows: tuple[int, ...] = (1, 32, 1024)
    """Rows per call; sizes outside the declared range are left out."""
    processes_count: int = 3
    """Fresh processes; the unit of the statistics."""
    rounds_count: int = 30
    """Rounds per process and batch size, at most; in each every candidate is timed once."""
    min_rounds_count: int = 5
    round_budget_s: float = 3.0
    """Time for all rounds of one batch size in one process; slow models get fewer rounds, never below the minimum."""
    block_s: float = 0.002
    """A sample lasts at least this long: as many calls as that takes."""
    warmup_s: float = 0.05
    warmup_calls_count: int = 5
    tie_ratio: float = 0.02
    """Differences below this share are called the same."""

    def __post_init__(self) -> None:
        if not self.batch_rows or min(self.batch_rows) < 1:
            raise ValueError(f"bench.batch_rows must be sizes >= 1, got {self.batch_rows}")
        if self.processes_count < 2:
            raise ValueError(f"bench.processes_count must be >= 2 (one has no spread), got {self.processes_count}")
        if not 1 <= self.min_rounds_count <= self.rounds_count:
            raise ValueError(
                "bench must have 1 <= min_rounds_count <= rounds_count, "
                f"got {self.min_rounds_count} and {self.rounds_count}"
            )
        if min(self.block_s, self.round_budget_s) <= 0 or self.warmup_s < 0 or not 0 <= self.tie_ratio < 1:
            raise ValueError("bench durations must be > 0 and tie_ratio must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class SampleJob:
    """Time these artifacts against each other."""

    artifacts: tuple[str, ...]
    """Their folders."""
    source: Source
    """For eager, the baseline."""
    options: LoadOptions
    spec: BenchSpec
    samples: str | None
    """Real rows, as safetensors."""
    seed: int
    current: str
    """A file that always names the artifact being worked on, for the parent to know who crashed."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Samples of one artifact at one batch size in one process."""

    artifact: str
    batch_rows: int
    calls_per_sample_count: int
    warmup_calls_count: int
    warmup_s: float
    samples_s: tuple[float, ...]
    """Seconds per call: the mean of each block. Sample i of every artifact belongs to the same round."""


def sample(payload: object) -> list[Series]:
    """Job: load all, then for each batch size bind all, warm all up, and time them round by round."""
    job = from_json(SampleJob, payload)
    order = random.Random(job.seed)
    folders = [Path(folder) for folder in job.artifacts]
    order.shuffle(folders)
    runners = {}
    for folder in folders:
        _note(job, folder.name)
        runners[folder.name] = backends.load(folder, job.options, job.source.module)
    series: list[Series] = []
    with _inference_mode():
        for rows in _batch_rows(job.spec, next(iter(runners.values())).signature):
            series += _at_batch(job, runners, rows, order)
    return series


def _batch_rows(spec: BenchSpec, signature: Signature) -> list[int]:
    """The batch sizes that the signature allows; one call is one row where no dimension counts rows."""
    return [rows for rows in spec.batch_rows if rows in signature.ranges[signature.batch]] if signature.batch else [1]


def _at_batch(job: SampleJob, runners: dict[str, Runner], rows: int, order: random.Random) -> list[Series]:
    signature = next(iter(runners.values())).signature
    inputs = _buffers(job, signature, rows)
    synchronise = synchroniser(job.options.device)
    blocks: dict[str, _Block] = {}
    for name, runner in runners.items():
        _note(job, name)
        blocks[name] = _Block([runner.bind(one) for one in inputs], synchronise)
        blocks[name].warm_up(job.spec)
        for one, bound in zip(inputs, blocks[name].bound, strict=True):
            if (output := crossed(runner(one), bound.run())) is not None:
                raise RuntimeError(f"{name}: bound and checked calls disagree on {output}")
    round_s = sum(block.expected_s for block in blocks.values())
    rounds_count = max(job.spec.min_rounds_count, min(job.spec.rounds_count, int(job.spec.round_budget_s / round_s)))
    samples: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(rounds_count):
        names = list(blocks)
        order.shuffle(names)
        for name in names:
            _note(job, name)
            samples[name].append(blocks[name].time_s())
    return [
        Series(
            artifact=name,
            batch_rows=rows,
            calls_per_sample_count=block.calls_count,
            warmup_calls_count=block.warmup_calls_count,
            warmup_s=block.warmup_s,
            samples_s=tuple(samples[name]),
        )
        for name, block in blocks.items()
    ]


class _Block:
    """A fixed number of calls of one candidate, timed as one."""

    def __init__(self, bound: list[Bound], synchronise: Callable[[], None]) -> None:
        self.bound = bound
        self._runs = [one.run for one in bound]
        self._synchronise = synchronise
        self.calls_count = len(bound)
        self.warmup_calls_count = 0
        self.warmup_s = 0.0
        self.expected_s = 0.0

    def warm_up(self, spec: BenchSpec) -> None:
        """Call until both the count and the time are reached, then choose how many calls a block takes."""
        started = now_s()
        while self.warmup_calls_count < spec.warmup_calls_count or self.warmup_s < spec.warmup_s:
            self._calls(self._runs)
            self.warmup_calls_count += len(self._runs)
            self.warmup_s = now_s() - started
        one_s = min(self._timed(self._runs) for _ in range(3)) / len(self._runs)
        calls_count = max(1, round(spec.block_s / max(one_s, 1e-9)))
        repeats = -(-calls_count // len(self._runs))
        self._runs = (self._runs * repeats)[:calls_count] if calls_count < len(self._runs) else self._runs * repeats
        self.calls_count = len(self._runs)
        self.expected_s = one_s * self.calls_count

    def time_s(self) -> float:
        """Seconds per call over one block, the garbage collector off."""
        gc.collect(0)
        gc.disable()
        try:
            return self._timed(self._runs) / self.calls_count
        finally:
            gc.enable()

    def _timed(self, runs: Sequence[Callable[[], Any]]) -> float:
        self._synchronise()
        started = now_s()
        self._calls(runs)
        self._synchronise()
        return now_s() - started

    @staticmethod
    def _calls(runs: Sequence[Callable[[], Any]]) -> None:
        for run in runs:
            run()


def _buffers(job: SampleJob, signature: Signature, rows: int) -> list[dict[str, Array]]:
    from safetensors.numpy import load_file

    samples = load_file(job.samples) if job.samples else {}
    drawn = [case_inputs(signature, signature.sizes_at(rows), samples, job.seed + i) for i in range(BUFFERS_COUNT)]
    return [{name: to_torch(array.copy(), job.options.device) for name, array in one.items()} for one in drawn]


def crossed(expected: Mapping[str, Array], got: Sequence[Array]) -> str | None:
    """The first output of a bound call that does not answer the inputs it was bound to, by the checked call's answer.

    This finds stale and crossed buffers. How close values are to the truth is parity's business: a thousandth of the
    output's scale is close enough here.
    """
    for (name, array), other in zip(expected.items(), got, strict=True):
        wanted = to_numpy(array)
        scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0))
        if not np.allclose(wanted, to_numpy(other), rtol=0.0, atol=_CROSSED * scale, equal_nan=True):
            return name
    return None


def _note(job: SampleJob, name: str) -> None:
    Path(job.current).write_text(name)


def _inference_mode() -> Any:
    import torch

    return torch.inference_mode()
