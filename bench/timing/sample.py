"""The measuring job: one fresh process that holds every candidate, and times them in random interleaved rounds.

Order matters on a machine that changes speed while it measures: candidates are loaded, and in every round timed, in an
order drawn from the seed, so that drift falls on all alike and ratios within a round stay fair. A sample is the mean of
a block of calls, long enough that reading the clock costs nothing; single calls are timed for percentiles beside it,
where they last long enough for that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.timing.block import Block
from bench.timing.clock import now_s, synchroniser
from bench.timing.concurrency import ConcurrencySample, callers_together
from bench.timing.conditions import Conditions, Watch
from bench.timing.energy import energy_counter
from bench.timing.inputs import BUFFERS_COUNT, batch_sizes, buffers, mismatched_output
from bench.timing.measurement import CONTROL, Samples
from bench.timing.spec import BenchSpec
from bench.timing.threads import ThreadSwitch
from export import backend as backends
from export.arrays import Array, to_torch
from export.artifact import read_artifact
from export.backend import Bound, LoadOptions, Runner
from export.build import Source
from export.environment import cores_count
from export.record import from_json

SINGLE_CALL_S = 10e-6
"""Below, reading the clock is more than 1 % of a call: no single calls are timed, and no percentile is claimed."""
_ENERGY_S = 1.0
_SLOW_CALL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An artifact with the settings that it is run with."""

    label: str
    """Unlike any other's of the session."""
    folder: str
    options: LoadOptions
    whole: bool = True
    """Whether checked calls, single calls and concurrent callers are measured as well as the bound call."""


@dataclass(frozen=True, kw_only=True)
class SampleJob:
    """Time these candidates against each other."""

    candidates: tuple[Candidate, ...]
    source: Source
    """For eager, the baseline."""
    spec: BenchSpec
    samples: str | None
    """Real rows, as safetensors."""
    seed: int
    process: int
    """Which of the session's processes this is."""
    current: str
    """A file that always names the candidate being worked on, for the parent to know who crashed."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What one process measured, and what it left out."""

    series: dict[str, tuple[Samples, ...]]
    """By the candidate's label; one for each batch size."""
    concurrency: dict[str, tuple[ConcurrencySample, ...]]
    """By label; one for each number of callers."""
    left_out: dict[str, str]
    """By batch size: why it was not measured."""
    empty_block_s: float
    """Seconds that the harness itself adds to a call timed in a block: that of a function which does nothing."""
    empty_call_s: float
    """The same for a call timed alone."""
    conditions: Conditions


@dataclass
class _Timed:
    """A candidate at one batch size, warm."""

    candidate: Candidate
    bound: Block
    checked: Block | None
    calls_count: int
    """Single calls per round."""


def sample(payload: object) -> Sampled:
    """Job: load all, then for each batch size bind all, warm all up, and time them round by round."""
    job = from_json(SampleJob, payload)
    order = random.Random(job.seed)
    watch = Watch(cores_count())
    runners = load_all(job, order)
    series: dict[str, tuple[Samples, ...]] = {one.label: () for one in job.candidates}
    left_out = {}
    batches = batch_sizes(job.spec, next(iter(runners.values())).signature)
    device = job.candidates[0].options.device
    with _inference_mode():
        for rows in batches:
            found = _at_batch(job, runners, rows, order, may_leave_out=rows > batches[0])
            if isinstance(found, str):
                left_out[str(rows)] = found
            else:
                for label, samples in found.items():
                    series[label] += (samples,)
        concurrency = _concurrency(job, runners, job.spec.callers_rows or batches[0], order)
        empty = Block([_nothing] * BUFFERS_COUNT, synchroniser(device))
        empty.warm_up(job.spec.warmup_calls_count, 0.0, 0.0, job.spec.block_s)
        empty_block_s = min(empty.sample_s() for _ in range(10))
        empty_call_s = sorted(empty.calls_s(1000))[500]
    return Sampled(
        series=series,
        concurrency=concurrency,
        left_out=left_out,
        empty_block_s=empty_block_s,
        empty_call_s=empty_call_s,
        conditions=watch.stop(),
    )


def load_all(job: SampleJob, order: random.Random) -> dict[str, Runner]:
    """Every candidate's runner, made in random order; where torch decides on threads at each call, one serves them all.

    The twin is loaded for itself, and serves no other: what loading it again makes different is part of the noise.
    """
    candidates = list(job.candidates)
    order.shuffle(candidates)
    shared: dict[tuple[str, LoadOptions], Runner] = {}
    runners = {}
    for one in candidates:
        _note(job, one.label)
        backend = backends.get(read_artifact(Path(one.folder)).backend)
        key = (one.folder, replace(one.options, threads_count=0))
        may_share = backend.THREADS == "process" and one.label != CONTROL
        if may_share and not one.whole and key in shared:
            runners[one.label] = shared[key]
            continue
        runners[one.label] = backends.load(Path(one.folder), one.options, job.source.module)
        if may_share:
            shared[key] = runners[one.label]
    return runners


def _at_batch(
    job: SampleJob, runners: dict[str, Runner], rows: int, order: random.Random, *, may_leave_out: bool
) -> dict[str, Samples] | str:
    """The samples of every candidate by its label, or why this batch size is left out."""
    spec = job.spec
    device = job.candidates[0].options.device
    on_host = buffers(next(iter(runners.values())).signature, job.samples, rows, job.seed)
    inputs = [{name: to_torch(array.copy(), device) for name, array in one.items()} for one in on_host]
    switch = ThreadSwitch()
    timed: list[_Timed] = []
    round_s = 0.0
    for candidate in job.candidates:
        _note(job, candidate.label)
        switch.to(candidate.options)
        runner = runners[candidate.label]
        first = runner.bind(inputs[0])
        call_s = _call_s(first, device)
        if may_leave_out and call_s > spec.call_limit_s:
            return f"a call of {candidate.label} takes {call_s:.1f} s, bench.call_limit_s is {spec.call_limit_s:g} s"
        used = len(inputs) if call_s < _SLOW_CALL_S else 1  # memory that long untouched is cold in any case
        one, one_s = _warm(job, candidate, runner, first, inputs[:used], on_host[:used])
        timed.append(one)
        round_s += one_s
    rounds_count = max(spec.min_rounds_count, min(spec.rounds_count, int(spec.round_budget_s / round_s)))
    warmups = {one.candidate.label: (one.bound.warmup_calls_count, one.bound.warmup_s) for one in timed}
    samples: dict[str, list[float]] = {one.candidate.label: [] for one in timed}
    checked: dict[str, list[float]] = {one.candidate.label: [] for one in timed}
    calls: dict[str, list[float]] = {one.candidate.label: [] for one in timed}
    for _ in range(rounds_count):
        order.shuffle(timed)
        for one in timed:
            label = one.candidate.label
            _note(job, label)
            if switch.to(one.candidate.options):
                one.bound.rest()
            samples[label].append(one.bound.sample_s())
            if one.checked is not None:
                checked[label].append(one.checked.sample_s())
            calls[label] += one.bound.calls_s(one.calls_count)
    return {
        one.candidate.label: Samples(
            process=job.process,
            threads_count=one.candidate.options.threads_count,
            batch_rows=rows,
            calls_per_sample_count=one.bound.calls_count,
            warmup_calls_count=warmups[one.candidate.label][0],
            warmup_s=warmups[one.candidate.label][1],
            samples_s=tuple(samples[one.candidate.label]),
            checked_s=tuple(checked[one.candidate.label]),
            calls_s=tuple(calls[one.candidate.label]),
            joules_per_call=_joules_per_call(one, device) if one.candidate.whole else None,
        )
        for one in timed
    }


def _joules_per_call(one: _Timed, device: str) -> float | None:
    """Energy over a second or more of calls: counters move too seldom for a block."""
    counter = energy_counter(device)
    if counter is None:
        return None
    before_j, began, calls_count = counter(), now_s(), 0
    while now_s() - began < _ENERGY_S:
        one.bound.sample_s()
        calls_count += one.bound.calls_count
    return (counter() - before_j) / calls_count


def _concurrency(
    job: SampleJob, runners: dict[str, Runner], rows: int, order: random.Random
) -> dict[str, tuple[ConcurrencySample, ...]]:
    """What several callers at once get from every whole candidate, in random order."""
    found: dict[str, tuple[ConcurrencySample, ...]] = {}
    whole = [one for one in job.candidates if one.whole]
    order.shuffle(whole)
    switch = ThreadSwitch()
    inputs = buffers(next(iter(runners.values())).signature, job.samples, rows, job.seed)[0]
    for one in whole:
        _note(job, one.label)
        switch.to(one.options)
        device = one.options.device
        found[one.label] = ()
        for callers_count in job.spec.callers:
            bounds = [
                runners[one.label].bind({name: to_torch(array.copy(), device) for name, array in inputs.items()})
                for _ in range(callers_count)
            ]
            runs = [bound.run for bound in bounds]
            concurrent = callers_together(
                job.process, runs, rows, job.spec.callers_s, one.options.threads_count, synchroniser(device)
            )
            found[one.label] += (concurrent,)
    return found


def _nothing() -> None:
    pass


def _call_s(bound: Bound, device: str) -> float:
    synchronise = synchroniser(device)
    synchronise()
    started = now_s()
    bound.run()
    synchronise()
    return now_s() - started


def _warm(
    job: SampleJob,
    candidate: Candidate,
    runner: Runner,
    first: Bound,
    inputs: Sequence[Mapping[str, Array]],
    on_host: Sequence[Mapping[str, Array]],
) -> tuple[_Timed, float]:
    """A warmed-up candidate over all buffers, and how long its turn takes; its answers are the checked call's."""
    spec, synchronise = job.spec, synchroniser(candidate.options.device)
    bound = [first, *(runner.bind(one) for one in inputs[1:])]
    block = Block([one.run for one in bound], synchronise)
    turn_s = block.warm_up(spec.warmup_calls_count, spec.warmup_s, spec.warmup_limit_s, spec.block_s)
    for one, call in zip(inputs, bound, strict=True):
        if (output := mismatched_output(runner(one), call.run())) is not None:
            raise RuntimeError(f"{candidate.label}: bound and checked calls disagree on {output}")
    checked, calls_count = None, 0
    if candidate.whole:
        checks: list[Callable[[], Any]] = [partial(runner, one) for one in on_host]
        checked = Block(checks, synchronise)
        checked_s = checked.warm_up(spec.warmup_calls_count, 0.0, spec.warmup_limit_s, spec.block_s)
        call_s = turn_s / block.calls_count
        if call_s >= SINGLE_CALL_S:
            wanted = spec.calls_count / spec.processes / spec.rounds_count
            calls_count = max(1, min(round(wanted + 0.5), int(spec.round_budget_s / spec.rounds_count / 4 / call_s)))
        turn_s += checked_s + calls_count * call_s
    return _Timed(candidate=candidate, bound=block, checked=checked, calls_count=calls_count), turn_s


def _note(job: SampleJob, label: str) -> None:
    Path(job.current).write_text(label)


def _inference_mode() -> Any:
    import torch

    return torch.inference_mode()
