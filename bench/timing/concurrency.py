"""Several callers on one runner: what a server's threads get, each with buffers of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.timing.clock import now_s
from export.device import Device
from export.record import OMITTED

_KEPT_CALLS = 1000


@dataclass(frozen=True, kw_only=True)
class CallersTime:
    """How long callers call."""

    least_s: float
    most_s: float
    """Longer than the least only while a caller has had few answers: a thousand are enough."""


@dataclass(frozen=True, kw_only=True)
class ConcurrencySample:
    """Callers that call as fast as they are answered (a closed loop), in one process."""

    process: int
    callers_count: int
    batch_rows: int
    duration_s: float
    calls_count: int
    latencies_s: tuple[float, ...]
    """The latency of every k-th call, k such that no more than about a thousand are kept."""
    threads_count: int | None = field(default=None, metadata=OMITTED)
    """The artifact's; None in records of when only one count was measured."""


def callers_together(
    process: int,
    runs: Sequence[Callable[[], Any]],
    batch_rows: int,
    time: CallersTime,
    threads_count: int,
    where: Device,
) -> ConcurrencySample:
    """Call each of ``runs`` from a thread of its own for so long; at least once.

    ``threads_count`` is torch's, which a new thread does not inherit.

    Raises:
        Exception: what the first failing call raised.
    """
    gate = threading.Barrier(len(runs) + 1)
    latencies: list[list[float]] = [[] for _ in runs]
    failed: list[BaseException] = []
    done: list[Callable[[], Any]] = []
    """Callers that have calls enough; they go on until all have, or the others would meet fewer."""
    wait = where.waiter()

    def call(run: Callable[[], Any], times_s: list[float]) -> None:
        import torch

        where.enter_thread()
        torch.set_num_threads(threads_count)
        with torch.inference_mode():
            gate.wait()
            began = now_s()
            least_s, most_s = began + time.least_s, began + time.most_s
            while began < (least_s if len(done) == len(latencies) else most_s) or not times_s:
                try:
                    run()
                    wait()
                except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
                    failed.append(error)
                    return
                ended = now_s()
                times_s.append(ended - began)
                if len(times_s) == _KEPT_CALLS:
                    done.append(run)
                began = ended

    threads = [
        threading.Thread(target=call, args=(run, times_s), daemon=True)
        for run, times_s in zip(runs, latencies, strict=True)
    ]
    for thread in threads:
        thread.start()
    gate.wait()
    started = now_s()
    for thread in threads:
        thread.join()
    elapsed_s = now_s() - started
    if failed:
        raise failed[0]
    every = [latency for times_s in latencies for latency in times_s]
    return ConcurrencySample(
        process=process,
        callers_count=len(runs),
        batch_rows=batch_rows,
        duration_s=elapsed_s,
        calls_count=len(every),
        latencies_s=tuple(every[:: max(1, len(every) // _KEPT_CALLS)]),
        threads_count=threads_count,
    )
