"""One candidate of a measurement at one batch size: warmed up, checked against itself, and ready to be timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.timing.block import Block, waited
from bench.timing.clock import now_s
from bench.timing.energy import energy_counter
from bench.timing.inputs import mismatched_output, stale_output
from bench.timing.spec import BenchSpec
from export import registry
from export.arrays import Array
from export.artifact import read_artifact
from export.backend import Backend, Bound, LoadOptions, Runner
from export.device import Device, device

SINGLE_CALL_S = 10e-6
"""Below, reading the clock is more than 1 % of a call: no single calls are timed, and no percentile is claimed."""
_ENERGY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An artifact with the settings that it is run with."""

    label: str
    """Unlike any other's of the session."""
    folder: str
    options: LoadOptions
    whole: bool = True
    """Whether checked calls, single calls and concurrent callers are measured as well as the bound call."""
    energy: bool = True
    """Whether the energy of a whole one's calls is measured as well, which takes a second for each batch size."""


@dataclass
class Contender:
    """A candidate at one batch size, warm."""

    candidate: Candidate
    bound: Block
    queued: Block | None
    """The same calls given to a device one after another, the last one waited for; None where none can be queued."""
    checked: Block | None
    calls_count: int
    """Single calls per round."""
    spins: bool
    """Whether its idle threads spin."""


def warm(
    spec: BenchSpec,
    candidate: Candidate,
    runner: Runner,
    first: Bound,
    inputs: Sequence[Mapping[str, Array]],
    on_host: Sequence[Mapping[str, Array]],
) -> tuple[Contender, float]:
    """A warmed-up candidate over all buffers, and how long its turn takes; its answers are the checked call's."""
    where = device(candidate.options.device)
    synchronise = where.synchroniser()
    bound = [first, *(runner.bind(buffer) for buffer in inputs[1:])]
    block = Block([waited(call.run, where) for call in bound], synchronise)
    turn_s = block_s = block.warm_up(spec.warmup_calls_count, spec.warmup_s, spec.warmup_limit_s, spec.block_s)
    queued = None
    if where.asynchronous:
        queued = Block([call.run for call in bound], synchronise)
        turn_s += queued.warm_up(spec.warmup_calls_count, 0.0, spec.warmup_limit_s, spec.block_s)
    for buffer, call in zip(inputs, bound, strict=True):
        if (output := mismatched_output(runner(buffer), call.run())) is not None:
            raise RuntimeError(f"{candidate.label}: bound and checked calls disagree on {output}")
    if len(inputs) > 1 and (output := stale_output(runner, bound[0], inputs, where)) is not None:
        raise RuntimeError(f"{candidate.label}: a bound call answers for what {output} was when it was bound")
    checked, calls_count = None, 0
    if candidate.whole:
        checks: list[Callable[[], Any]] = [partial(runner, buffer) for buffer in on_host]
        checked = Block(checks, synchronise)
        checked_s = checked.warm_up(spec.warmup_calls_count, 0.0, spec.warmup_limit_s, spec.block_s)
        call_s = block_s / block.calls_count
        if call_s >= SINGLE_CALL_S:
            wanted = spec.calls_count / spec.processes / spec.rounds_count
            calls_count = max(1, min(round(wanted + 0.5), int(spec.round_budget_s / spec.rounds_count / 4 / call_s)))
        turn_s += checked_s + calls_count * call_s
    spins = backend_of(candidate).spins(candidate.options)
    contender = Contender(
        candidate=candidate, bound=block, queued=queued, checked=checked, calls_count=calls_count, spins=spins
    )
    return contender, turn_s


def joules_per_call(contender: Contender, where: Device) -> float | None:
    """Energy over a second or more of calls: counters move too seldom for a block."""
    counter = energy_counter(where)
    if (before_j := counter()) is None:
        return None
    began, calls_count = now_s(), 0
    while now_s() - began < _ENERGY_S:
        contender.bound.sample_s()
        calls_count += contender.bound.calls_count
    after_j = counter()
    return None if after_j is None else (after_j - before_j) / calls_count


def backend_of(candidate: Candidate) -> Backend:
    """The backend that made a candidate's artifact."""
    return registry.get(read_artifact(Path(candidate.folder)).backend)
