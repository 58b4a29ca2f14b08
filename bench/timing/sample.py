"""The measuring job: one fresh process that holds every candidate, and times them in random interleaved rounds.

Order matters on a machine that changes speed while it measures: candidates are loaded, and in every round timed, in an
order drawn from the seed, so that drift falls on all alike and ratios within a round stay fair. A sample is the mean of
a block of calls, long enough that reading the clock costs nothing; single calls are timed for percentiles beside it,
where they last long enough for that.
"""

from __future__ import annotations

import random
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.timing.block import Block
from bench.timing.clock import now_s
from bench.timing.concurrency import ConcurrencySample, callers_together
from bench.timing.conditions import Conditions, Watch
from bench.timing.contender import Candidate, Contender, backend_of, joules_per_call, warm
from bench.timing.inputs import BUFFERS_COUNT, batch_sizes, buffers
from bench.timing.measurement import CONTROL, Samples
from bench.timing.processes.rounds import Plan, Round, timed
from bench.timing.processes.turns import Turn, taken
from bench.timing.spec import BenchSpec
from bench.timing.threads import ThreadSwitch
from export import registry
from export.arrays import to_torch
from export.backend import Bound, LoadOptions, Runner
from export.build import Source
from export.device import Device, device
from export.environment import cores_count
from export.task import task

_SLOW_CALL_S = 0.02
NOBODY = ""
"""At work where no candidate is: what goes wrong then is the session's own fault."""


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
    """A file that names the candidate being worked on, or ``NOBODY``, for the parent to know who crashed."""
    turn: Turn | None = None
    """None: no other process loads beside this one."""


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


@task
def sample(job: SampleJob) -> Sampled:
    """Load all, then in this process's turn for each batch size bind all, warm all up, and time them round by round."""
    order = random.Random(job.seed)
    runners = load_all(job, order)
    _note(job, NOBODY)
    with taken(job.turn) as too_slow:
        sampled = _timed(job, runners, order, too_slow)
        too_slow.update(int(rows) for rows in sampled.left_out)
    return sampled


def _timed(job: SampleJob, runners: dict[str, Runner], order: random.Random, too_slow: Set[int]) -> Sampled:
    """All samples; none at sizes that are known to be too slow."""
    where = device(job.candidates[0].options.device)
    watch = Watch(cores_count(), where)
    series: dict[str, tuple[Samples, ...]] = {candidate.label: () for candidate in job.candidates}
    left_out = {}
    batches = [rows for rows in batch_sizes(job.spec, next(iter(runners.values())).signature) if rows not in too_slow]
    with _inference_mode():
        for rows in batches:
            outcome = _at_batch(job, runners, rows, order, may_leave_out=rows > batches[0])
            if isinstance(outcome, str):
                left_out[str(rows)] = outcome
            else:
                for label, samples in outcome.items():
                    series[label] += (samples,)
            _note(job, NOBODY)
            watch.look()
        concurrency = _concurrency(job, runners, job.spec.callers_rows or batches[0], order)
        _note(job, NOBODY)
        watch.look()
        empty = Block([_nothing] * BUFFERS_COUNT, where.synchroniser())
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

    The A/A control is loaded for itself, and serves no other: what another loading makes different is noise.
    """
    candidates = list(job.candidates)
    order.shuffle(candidates)
    shared: dict[tuple[str, LoadOptions], Runner] = {}
    runners = {}
    for candidate in candidates:
        _note(job, candidate.label)
        backend = backend_of(candidate)
        key = (candidate.folder, replace(candidate.options, threads_count=0))
        may_share = backend.threads == "process" and candidate.label != CONTROL
        if may_share and not candidate.whole and key in shared:
            runners[candidate.label] = shared[key]
            continue
        runners[candidate.label] = registry.load(Path(candidate.folder), candidate.options, job.source.module)
        if may_share:
            shared[key] = runners[candidate.label]
    return runners


def _at_batch(
    job: SampleJob, runners: dict[str, Runner], rows: int, order: random.Random, *, may_leave_out: bool
) -> dict[str, Samples] | str:
    """The samples of every candidate by its label, or why this batch size is left out."""
    spec = job.spec
    where = device(job.candidates[0].options.device)
    on_host = buffers(next(iter(runners.values())).signature, job.samples, rows, job.seed)
    inputs = [{name: to_torch(array.copy(), where) for name, array in buffer.items()} for buffer in on_host]
    switch = ThreadSwitch()
    contenders: list[Contender] = []
    round_s = 0.0
    for candidate in job.candidates:
        _note(job, candidate.label)
        switch.to(candidate.options, spins=backend_of(candidate).spins(candidate.options))
        runner = runners[candidate.label]
        first = runner.bind(inputs[0])
        call_s = _call_s(first, where)
        if may_leave_out and call_s > spec.call_limit_s:
            return f"a call of {candidate.label} takes {call_s:.1f} s, bench.call_limit_s is {spec.call_limit_s:g} s"
        used = len(inputs) if call_s < _SLOW_CALL_S else 1  # memory that long untouched is cold in any case
        contender, turn_s = warm(spec, candidate, runner, first, inputs[:used], on_host[:used])
        contenders.append(contender)
        round_s += turn_s
    warmups = {
        contender.candidate.label: (contender.bound.warmup_calls_count, contender.bound.warmup_s)
        for contender in contenders
    }

    def take() -> Round:
        order.shuffle(contenders)
        taken = {}
        for contender in contenders:
            _note(job, contender.candidate.label)
            if switch.to(contender.candidate.options, spins=contender.spins):
                contender.bound.rest()
            taken[contender.candidate.label] = timed(
                contender.bound, contender.queued, contender.checked, contender.calls_count
            )
        return taken

    rounds_count = max(spec.min_rounds_count, min(spec.rounds_count, int(spec.round_budget_s / round_s)))
    rounds = Plan(rounds_count=rounds_count, largest_error=spec.largest_round_error).timed(take)
    by_label = {contender.candidate.label: [r[contender.candidate.label] for r in rounds] for contender in contenders}
    first_process = job.process == 0  # energy takes a second for each candidate, and differs little between processes
    return {
        contender.candidate.label: Samples(
            process=job.process,
            threads_count=contender.candidate.options.threads_count,
            batch_rows=rows,
            calls_per_sample_count=contender.bound.calls_count,
            warmup_calls_count=warmups[contender.candidate.label][0],
            warmup_s=warmups[contender.candidate.label][1],
            samples_s=tuple(turn.bound_s for turn in by_label[contender.candidate.label]),
            queued_s=tuple(turn.queued_s for turn in by_label[contender.candidate.label] if turn.queued_s is not None),
            checked_s=tuple(
                turn.checked_s for turn in by_label[contender.candidate.label] if turn.checked_s is not None
            ),
            calls_s=tuple(call_s for turn in by_label[contender.candidate.label] for call_s in turn.calls_s),
            spoilt_count=sum(turn.spoilt for turn in by_label[contender.candidate.label]),
            joules_per_call=joules_per_call(contender, where) if _counts(contender) and first_process else None,
        )
        for contender in contenders
    }


def _concurrency(
    job: SampleJob, runners: dict[str, Runner], rows: int, order: random.Random
) -> dict[str, tuple[ConcurrencySample, ...]]:
    """What several callers at once get from every whole candidate, in random order."""
    by_label: dict[str, tuple[ConcurrencySample, ...]] = {}
    whole = [candidate for candidate in job.candidates if candidate.whole]
    order.shuffle(whole)
    switch = ThreadSwitch()
    inputs = buffers(next(iter(runners.values())).signature, job.samples, rows, job.seed)[0]
    for candidate in whole:
        _note(job, candidate.label)
        switch.to(candidate.options, spins=backend_of(candidate).spins(candidate.options))
        where = device(candidate.options.device)
        by_label[candidate.label] = ()
        for callers_count in job.spec.callers:
            bounds = [
                runners[candidate.label].bind({name: to_torch(array.copy(), where) for name, array in inputs.items()})
                for _ in range(callers_count)
            ]
            runs = [bound.run for bound in bounds]
            concurrent = callers_together(
                job.process, runs, rows, job.spec.callers_time, candidate.options.threads_count, where
            )
            by_label[candidate.label] += (concurrent,)
    return by_label


def _counts(contender: Contender) -> bool:
    return contender.candidate.whole and contender.candidate.energy


def _nothing() -> None:
    pass


def _call_s(bound: Bound, where: Device) -> float:
    synchronise = where.synchroniser()
    synchronise()
    started = now_s()
    bound.run()
    synchronise()
    return now_s() - started


def _note(job: SampleJob, label: str) -> None:
    Path(job.current).write_text(label, encoding="utf-8")


def _inference_mode() -> Any:
    import torch

    return torch.inference_mode()
