"""A device whose calls return at once and are done later: no timer may report less than the true time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from bench.timing.clock import now_s
from bench.timing.contender import Candidate
from bench.timing.sample import Sampled, SampleJob, sample
from bench.timing.spec import BenchSpec
from export.backend import LoadOptions
from export.device import DEVICES, Device
from tests.conftest import Builder
from tests.models import Mlp, source

WORK_S, ROUND_TRIP_S = 1e-3, 5e-4
"""What one call keeps the device busy, and what it takes to learn that it is done."""


class Queueing(Device):
    """The CPU, which has also to serve a queue of work, one piece after another."""

    kind: ClassVar[str] = "queueing"
    asynchronous: ClassVar[bool] = True
    busy_until_s: ClassVar[float] = 0.0

    def move(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def synchroniser(self) -> Callable[[], None]:
        def wait() -> None:
            done_s = Queueing.busy_until_s + ROUND_TRIP_S
            while now_s() < done_s:
                pass

        return wait

    @staticmethod
    def launch() -> None:
        Queueing.busy_until_s = max(Queueing.busy_until_s, now_s()) + WORK_S


@pytest.fixture(autouse=True)
def _queueing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICES, "queueing", Queueing)
    forward = Mlp.forward

    def launched(self: Mlp, x: torch.Tensor) -> torch.Tensor:
        Queueing.launch()
        return forward(self, x)

    monkeypatch.setattr(Mlp, "forward", launched)


@pytest.fixture
def sampled(build_model: Builder, tmp_path: Path) -> Callable[[], Sampled]:
    """The measuring job on eager."""
    folder, _ = build_model("Mlp", "eager")
    options = LoadOptions(device="queueing", threads_count=1)
    job = SampleJob(
        candidates=(Candidate(label="eager", folder=str(folder), options=options),),
        source=source("Mlp"),
        spec=BenchSpec(
            batch_rows=(1,), processes_count=2, rounds_count=5, warmup_s=0.01, block_s=0.02, callers=(1, 2),
            callers_s=0.05, calls_count=40,
        ),
        samples=None,
        seed=0,
        process=0,
        current=str(tmp_path / "current"),
    )  # fmt: skip
    return lambda: sample(job)


def medians_s(sampled: Sampled) -> dict[str, float]:
    (series,) = sampled.series["eager"]
    kinds: dict[str, Any] = {"waited": series.samples_s, "queued": series.queued_s, "single": series.calls_s}
    return {name: statistics.median(times_s) for name, times_s in kinds.items()}


def test_latency_and_throughput_are_two_figures_and_neither_is_the_launch(sampled: Callable[[], Sampled]) -> None:
    measured = sampled()
    found = medians_s(measured)
    assert found["waited"] >= WORK_S + ROUND_TRIP_S
    assert found["single"] >= WORK_S + ROUND_TRIP_S
    assert WORK_S <= found["queued"] < WORK_S + ROUND_TRIP_S / 2  # a round trip for a whole block
    for callers in measured.concurrency["eager"]:
        assert min(callers.latencies_s) >= WORK_S + ROUND_TRIP_S
        assert callers.calls_count <= callers.duration_s / WORK_S + callers.callers_count


def test_without_waiting_for_each_call_latency_would_be_throughput(
    sampled: Callable[[], Sampled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.timing.contender.waited", lambda run, where: run)
    assert medians_s(sampled())["waited"] < WORK_S + ROUND_TRIP_S / 2


def test_without_waiting_at_all_both_would_be_the_launch(
    sampled: Callable[[], Sampled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Queueing, "synchroniser", lambda self: lambda: None)
    assert max(medians_s(sampled()).values()) < WORK_S / 2
