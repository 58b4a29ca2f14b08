"""A call on a device counts as answered when it has computed, and not when it was queued."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.load import LoadJob, _Host, _test, missing
from bench.timing.block import Block
from bench.timing.concurrency import CallersTime, ConcurrencySample, callers_together
from export.arrays import Array
from export.backend import Bound, LoadOptions
from export.device import Device
from tests.bench.gpus.lagging import DONE_S, Lagging, WaitsForAll, WaitsForNone, queue
from tests.models import SIGNATURES

FAST_S, SLOW_S = 0.002, 0.05


@pytest.fixture(autouse=True)
def _idle() -> None:
    DONE_S.clear()


def together(where: Device, *works_s: float) -> ConcurrencySample:
    runs = [lambda work_s=work_s: queue(work_s) for work_s in works_s]
    return callers_together(0, runs, 1, CallersTime(least_s=0.3, most_s=0.3), 1, where)


def test_a_callers_latency_is_at_least_its_works() -> None:
    sample = together(Lagging("lagging"), SLOW_S, SLOW_S)
    assert min(sample.latencies_s) >= SLOW_S
    assert sample.duration_s >= 0.3
    assert min(together(WaitsForNone("lagging"), SLOW_S, SLOW_S).latencies_s) < SLOW_S


def test_a_fast_caller_does_not_wait_for_a_slow_ones_work() -> None:
    fast, held_up = together(Lagging("lagging"), FAST_S, SLOW_S), together(WaitsForAll("lagging"), FAST_S, SLOW_S)
    assert sorted(fast.latencies_s)[len(fast.latencies_s) // 2] < SLOW_S / 2
    assert sorted(held_up.latencies_s)[len(held_up.latencies_s) // 2] > SLOW_S / 2
    assert fast.calls_count > 2 * held_up.calls_count


def test_a_block_and_its_single_calls_are_at_least_the_true_time() -> None:
    block = Block([lambda: queue(SLOW_S)] * 4, Lagging("lagging").synchroniser())
    assert min(block.calls_s(2)) >= SLOW_S


class Runner:
    """A runner whose calls are queued."""

    def __init__(self, where: Device) -> None:
        self.device = where
        self.signature = SIGNATURES["Mlp"]

    def bind(self, inputs: dict[str, Any]) -> Bound:
        def run() -> Sequence[Array]:
            queue(FAST_S)
            return [np.zeros(1)]

        return Bound(inputs=inputs, run=run)


def load_job(logs: Path) -> LoadJob:
    return LoadJob(
        artifact="", options=LoadOptions(), samples=None, p99_ms=1.0, duration_s=0.1, callers_count=2,
        offline_rows=2, logs=str(logs),
    )  # fmt: skip


class Host(_Host):
    """LoadGen's answers, each with whether its work was done."""

    def __init__(self, where: Device) -> None:
        super().__init__(load_job(Path()), Runner(where))  # type: ignore[arg-type]
        self.was_done: list[bool] = []

    def _complete(self, queries: Any) -> None:
        self.was_done.append(time.monotonic() >= DONE_S[threading.get_ident()])


@pytest.mark.parametrize("scenario", ["one_by_one", "in_batches", "handed_over"])
@pytest.mark.parametrize(("kind", "done"), [(Lagging, True), (WaitsForNone, False)])
def test_loadgen_hears_of_an_answer_when_it_is_computed(scenario: str, kind: type[Device], done: bool) -> None:
    host = Host(kind("lagging"))
    with host:
        getattr(host, scenario)([SimpleNamespace(index=index, id=index) for index in range(4)])
        host._pool.shutdown()
    assert host.was_done == [done] * (2 if scenario == "in_batches" else 4)


def test_a_thread_of_loadgens_enters_the_device_once_and_keeps_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []
    monkeypatch.setattr(Lagging, "enter_thread", lambda self: entered.append(threading.get_ident()))
    host = Host(Lagging("lagging"))
    with host:
        host.one_by_one([SimpleNamespace(index=0, id=0)] * 3)
        host.in_batches([SimpleNamespace(index=0, id=0)] * 2)
        assert entered == [threading.get_ident()]
        assert all("x" in bound.inputs for rows in (1, 2) for bound in host._bound(rows))


@pytest.mark.extra
@pytest.mark.skipif(missing() is not None, reason=f"extra: {missing()}")
def test_loadgens_own_latency_is_at_least_the_true_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.load._LEAST_QUERIES", 20)
    medians_ms = {}
    for kind in (Lagging, WaitsForNone):
        DONE_S.clear()
        job = load_job(tmp_path / kind.__name__)
        with _Host(job, Runner(kind("lagging"))) as host:  # type: ignore[arg-type]
            medians_ms[kind] = _test(host, job, "SingleStream", None).percentiles_ms["50.00"]
    assert medians_ms[Lagging] >= FAST_S * 1e3 > medians_ms[WaitsForNone]
