"""Ways to time a call on a device: what a block, a waited call, the launch alone, events and a CUDA graph say."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bench.timing.clock import now_s
from export.gpus import graph

Run = Callable[[], Any]
_LEAST_S = 0.02
_WARMUP_S = 0.05
_MOST_COUNT = 10_000


def waiter(device: str) -> Callable[[], None]:
    """Returns when everything queued on the device is done."""
    return torch.cuda.synchronize if device == "cuda" else _nothing


def warm_up(run: Run, wait: Callable[[], None]) -> float:
    """Call for a while; the seconds of one call, queued with others."""
    run()
    wait()
    started, count = now_s(), 0
    while now_s() - started < _WARMUP_S:
        run()
        count += 1
    wait()
    return (now_s() - started) / count


def block_s(run: Run, wait: Callable[[], None], least_s: float = _LEAST_S, repeats_count: int = 5) -> float:
    """Median seconds per call of blocks that are waited for as a whole: calls queue up on a GPU."""
    count = max(1, min(_MOST_COUNT, int(least_s / warm_up(run, wait))))
    return statistics.median(_block_s(run, wait, count) for _ in range(repeats_count))


def best_s(run: Run, wait: Callable[[], None], repeats_count: int = 5) -> float:
    """The shortest of such blocks, for a ceiling."""
    count = max(1, min(_MOST_COUNT, int(_LEAST_S / warm_up(run, wait))))
    return min(_block_s(run, wait, count) for _ in range(repeats_count))


def call_s(run: Run, wait: Callable[[], None], count: int = 200) -> float:
    """Median seconds of a call that is waited for before the next one: the latency that a caller sees."""
    return statistics.median(_block_s(run, wait, 1) for _ in range(count))


def launch_s(run: Run, wait: Callable[[], None], count: int = 200) -> float:
    """Median seconds until the call returns to the host, its work perhaps still queued."""
    found = []
    for _ in range(count):
        wait()
        started = now_s()
        run()
        found.append(now_s() - started)
    wait()
    return statistics.median(found)


def events_s(run: Run, count: int = 200) -> float:
    """Median seconds between two events around a call, on the current stream."""
    found = []
    for _ in range(count):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        run()
        ended.record()
        ended.synchronize()
        found.append(float(began.elapsed_time(ended)) * 1e-3)
    return statistics.median(found)


def captured(run: Run) -> Run:
    """The call as a CUDA graph, after ``CALLS_BEFORE`` plain ones; raises what capturing it raises."""
    return graph.captured(run, torch.cuda.current_device())


def in_turns(calls: Mapping[str, Run], wait: Callable[[], None], rounds_count: int = 30) -> dict[str, float]:
    """Median seconds of a waited call of each, timed in random order round by round."""
    counts = {name: max(1, min(100, int(0.002 / warm_up(call, wait)))) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    order, names = random.Random(0), list(calls)
    for _ in range(rounds_count):
        order.shuffle(names)
        for name in names:
            calls[name]()
            wait()
            found[name].append(statistics.median(_block_s(calls[name], wait, 1) for _ in range(counts[name])))
    return {name: statistics.median(many) for name, many in found.items()}


def _block_s(run: Run, wait: Callable[[], None], count: int) -> float:
    wait()
    started = now_s()
    for _ in range(count):
        run()
    wait()
    return (now_s() - started) / count


def _nothing() -> None:
    """The CPU has nothing to wait for."""
