"""The measuring job: one fresh process that holds every candidate, and times them in random interleaved rounds.

Order matters on a machine that changes speed while it measures: candidates are loaded, and in every round timed, in an
order drawn from the seed, so that drift falls on all alike and ratios within a round stay fair. A sample is the mean of
a block of calls, long enough that reading the clock costs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.block import Block
from bench.clock import now_s, synchroniser
from bench.parity.cases import Pool
from export import backend as backends
from export.arrays import Array, to_numpy, to_torch
from export.backend import Bound, LoadOptions, Runner
from export.build import Source
from export.errors import UserError
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
    """Warm-up lasts at least so long, and at least so many calls, but no longer than ``warmup_limit_s``."""
    warmup_calls_count: int = 5
    warmup_limit_s: float = 1.0
    call_limit_s: float = 1.0
    """A batch size, but the smallest, at which one call of a candidate lasts longer is left out, and said to be."""
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
        if (
            min(self.block_s, self.round_budget_s, self.call_limit_s) <= 0
            or self.warmup_s < 0
            or not 0 <= self.tie_ratio < 1
        ):
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


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What one process measured, and what it left out."""

    series: tuple[Series, ...]
    left_out: dict[str, str]
    """By batch size: why it was not measured."""


def sample(payload: object) -> Sampled:
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
    left_out = {}
    batches = batch_sizes(job.spec, next(iter(runners.values())).signature)
    with _inference_mode():
        for rows in batches:
            found = _at_batch(job, runners, rows, order, may_leave_out=rows > batches[0])
            if isinstance(found, str):
                left_out[str(rows)] = found
            else:
                series += found
    return Sampled(series=tuple(series), left_out=left_out)


def batch_sizes(spec: BenchSpec, signature: Signature) -> list[int]:
    """The batch sizes that the signature allows, in order; one call is one row where no dimension counts rows.

    Raises:
        UserError: the signature allows none of them.
    """
    if signature.batch is None:
        return [1]
    bounds = signature.ranges[signature.batch]
    allowed = sorted(rows for rows in spec.batch_rows if rows in bounds)
    if not allowed:
        raise UserError(
            f"bench.batch_rows must have a size in [{bounds.min}, {bounds.max}], got {list(spec.batch_rows)}"
        )
    return allowed


def _at_batch(
    job: SampleJob, runners: dict[str, Runner], rows: int, order: random.Random, *, may_leave_out: bool
) -> list[Series] | str:
    """The series of every candidate, or why this batch size is left out."""
    inputs = _buffers(job, next(iter(runners.values())).signature, rows)
    blocks: dict[str, Block] = {}
    round_s = 0.0
    for name, runner in runners.items():
        _note(job, name)
        first = runner.bind(inputs[0])
        call_s = _call_s(first, job.options.device)
        if may_leave_out and call_s > job.spec.call_limit_s:
            return f"a call of {name} takes {call_s:.1f} s, bench.call_limit_s is {job.spec.call_limit_s:g} s"
        blocks[name], block_s = _warm(job, name, runner, first, inputs)
        round_s += block_s
    rounds_count = max(job.spec.min_rounds_count, min(job.spec.rounds_count, int(job.spec.round_budget_s / round_s)))
    warmups = {name: (block.warmup_calls_count, block.warmup_s) for name, block in blocks.items()}
    samples: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(rounds_count):
        names = list(blocks)
        order.shuffle(names)
        for name in names:
            _note(job, name)
            samples[name].append(blocks[name].sample_s())
    return [
        Series(
            artifact=name,
            batch_rows=rows,
            calls_per_sample_count=block.calls_count,
            warmup_calls_count=warmups[name][0],
            warmup_s=warmups[name][1],
            samples_s=tuple(samples[name]),
        )
        for name, block in blocks.items()
    ]


def _call_s(bound: Bound, device: str) -> float:
    synchronise = synchroniser(device)
    synchronise()
    started = now_s()
    bound.run()
    synchronise()
    return now_s() - started


def _warm(
    job: SampleJob, name: str, runner: Runner, first: Bound, inputs: list[dict[str, Array]]
) -> tuple[Block, float]:
    """A warmed-up block over all buffers, and how long one of it takes; its answers are the checked call's."""
    bound = [first, *(runner.bind(one) for one in inputs[1:])]
    block = Block([one.run for one in bound], synchroniser(job.options.device))
    spec = job.spec
    block_s = block.warm_up(spec.warmup_calls_count, spec.warmup_s, spec.warmup_limit_s, spec.block_s)
    for one, call in zip(inputs, bound, strict=True):
        if (output := crossed(runner(one), call.run())) is not None:
            raise RuntimeError(f"{name}: bound and checked calls disagree on {output}")
    return block, block_s


def _buffers(job: SampleJob, signature: Signature, rows: int) -> list[dict[str, Array]]:
    """Inputs on the device: the buffers that calls rotate among."""
    from safetensors.numpy import load_file

    pool = Pool(signature=signature, samples=load_file(job.samples) if job.samples else {}, seed=job.seed)
    drawn = [pool.call(rows, start=index * rows) for index in range(BUFFERS_COUNT)]
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
