"""MLPerf's LoadGen around an artifact: a well-known generator of load decides whether a rate or a latency holds.

Three scenarios of the MLPerf inference rules: SingleStream (one query after another; its 90th percentile), Offline (all
samples at once; throughput) and Server (Poisson arrivals; the highest rate at which the 99th percentile stays below a
limit, each try judged valid by LoadGen's own early stopping).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from bench.timing.inputs import BUFFERS_COUNT, buffers
from export import hints, registry
from export.arrays import to_torch
from export.backend import Bound, LoadOptions, Runner
from export.record import Observed, Record
from export.task import task

Scenario = Literal["SingleStream", "Offline", "Server"]
_SEED = 0
_SUMMARY = "mlperf_log_summary.txt"
_MS = 1_000_000
_TRIES = 10
_LEAST_QUERIES = 1000
"""Early stopping needs 459 without a violation to bound a 99th percentile, and 838 with two."""
_FIRST_SHARE = 0.5
_BATCHING_GAIN = 2.0
"""LoadGen draws Offline's samples beforehand, and judges the test too short where they were too few."""


@dataclass(frozen=True, kw_only=True)
class LoadJob:
    """Load one artifact."""

    artifact: str
    options: LoadOptions
    samples: str | None
    p99_ms: float
    """The Server scenario's limit."""
    duration_s: float
    """The duration of each test, at least."""
    callers_count: int
    """Threads that answer queries in the Server scenario."""
    offline_rows: int
    """Rows that the Offline scenario answers in one call."""
    logs: str
    """A folder for LoadGen's own logs."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One test, as LoadGen judged it."""

    scenario: Scenario
    valid: bool
    target_per_s: float | None
    """The rate asked for, in the Server scenario."""
    achieved_per_s: float | None
    percentiles_ms: dict[str, float]
    """Percentiles of latency; Offline's are times in the queue, and left out."""
    judgement: str
    """LoadGen's own words where it is not valid."""


@dataclass(frozen=True, kw_only=True)
class LoadReport(Record):
    """What an artifact stands under load, one row a query."""

    SCHEMA: ClassVar[str] = "torchstone.load/2"

    artifact: str
    artifact_sha256: str
    options: LoadOptions
    p99_ms: float
    callers_count: int
    server_per_s: float | None
    """The highest rate that was valid at the limit; None if none was."""
    tests: tuple[Tested, ...]
    observed: Observed


def missing() -> str | None:
    """Why LoadGen cannot be used, with the remedy."""
    import importlib.util

    if importlib.util.find_spec("mlperf_loadgen") is None:
        return f"mlcommons-loadgen is not installed: {hints.install('loadgen')}"
    return None


@task
def load(job: LoadJob) -> list[Tested]:
    """SingleStream, then Offline, then Server at rates that close in on the highest valid one."""
    runner = registry.load(Path(job.artifact), job.options)
    tests = []
    with _Host(job, runner) as host:
        single = _test(host, job, "SingleStream", None)
        offline = _test(host, job, "Offline", single.achieved_per_s)
        if not offline.valid:  # calls of many rows were faster than guessed: more samples make the test long enough
            offline = _test(host, job, "Offline", offline.achieved_per_s)
        tests += [single, offline]
        if single.achieved_per_s:
            tests += _rates(host, job, single.achieved_per_s)
    return tests


def highest(tests: Sequence[Tested]) -> float | None:
    """The highest rate of the Server scenario that was valid."""
    rates = [test.target_per_s for test in tests if test.scenario == "Server" and test.valid and test.target_per_s]
    return max(rates, default=None)


def _rates(host: _Host, job: LoadJob, ceiling_per_s: float) -> Iterator[Tested]:
    """Bisect on a logarithmic scale between a rate that holds and one that does not."""
    low, high = 0.0, ceiling_per_s * 2
    rate = ceiling_per_s * _FIRST_SHARE
    for _ in range(_TRIES):
        tested = _test(host, job, "Server", rate)
        yield tested
        low, high = (rate, high) if tested.valid else (low, rate)
        rate = (low * high) ** 0.5 if low else rate / 4
        if low and high / low < 1.05:
            return


class _Host:
    """The system under test: each caller has bound calls of its own, of one row, and of many for Offline."""

    def __init__(self, job: LoadJob, runner: Runner) -> None:
        import torch  # noqa: F401 - now, and not in the first query

        self._job = job
        self._runner = runner
        self._wait = runner.device.waiter()
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(job.callers_count)

    def __enter__(self) -> _Host:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def one_by_one(self, queries: Sequence[Any]) -> None:
        """SingleStream: LoadGen waits for each."""
        for query in queries:
            self._call(1, query.index)
            self._complete([query])

    def in_batches(self, queries: Sequence[Any]) -> None:
        """Offline: all queries at once, so many rows a call; a last call may hold fewer queries than rows."""
        rows = self._job.offline_rows
        for start in range(0, len(queries), rows):
            self._call(rows, start // rows)
            self._complete(queries[start : start + rows])

    def handed_over(self, queries: Sequence[Any]) -> None:
        """Server: to the next caller that is free."""
        for query in queries:
            self._pool.submit(self.one_by_one, [query])

    def _complete(self, queries: Sequence[Any]) -> None:
        import mlperf_loadgen as lg

        lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0) for query in queries])

    def _call(self, rows: int, index: int) -> None:
        """One call, and what it queued on the device."""
        import torch

        with torch.inference_mode():
            self._bound(rows)[index % BUFFERS_COUNT].run()
        self._wait()

    def _bound(self, rows: int) -> list[Bound]:
        """This thread's own bound calls, kept whole: a runtime may read memory that the inputs alone keep."""
        known: dict[int, list[Bound]] | None = getattr(self._local, "bound", None)
        if known is None:
            import torch

            self._runner.device.enter_thread()
            torch.set_num_threads(self._job.options.threads_count)
            known = self._local.bound = {}
        if rows not in known:
            known[rows] = [
                self._runner.bind({name: to_torch(array.copy(), self._runner.device) for name, array in buffer.items()})
                for buffer in buffers(self._runner.signature, self._job.samples, rows, _SEED)
            ]
        return known[rows]


def _test(host: _Host, job: LoadJob, scenario: Scenario, rate_per_s: float | None) -> Tested:
    """One test by LoadGen, and its summary."""
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(job.duration_s * 1e3)
    settings.min_query_count = 1 if scenario == "Offline" else _LEAST_QUERIES
    if scenario == "SingleStream":
        settings.single_stream_expected_latency_ns = 1000
    elif scenario == "Offline":
        settings.offline_expected_qps = (rate_per_s or 1.0) * _BATCHING_GAIN
    else:
        settings.server_target_qps = rate_per_s
        settings.server_target_latency_ns = int(job.p99_ms * _MS)
        settings.server_target_latency_percentile = 0.99
    logs = Path(job.logs)
    logs.mkdir(parents=True, exist_ok=True)
    output = lg.LogOutputSettings()
    output.outdir = str(logs)
    output.copy_summary_to_stdout = False
    recorded = lg.LogSettings()
    recorded.log_output = output
    recorded.enable_trace = False
    answer = {"SingleStream": host.one_by_one, "Offline": host.in_batches, "Server": host.handed_over}[scenario]
    sut = lg.ConstructSUT(answer, lambda: None)
    library = lg.ConstructQSL(BUFFERS_COUNT, BUFFERS_COUNT, lambda _: None, lambda _: None)
    try:
        lg.StartTestWithLogSettings(sut, library, settings, recorded, "")
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(sut)
    return read_summary(scenario, rate_per_s if scenario == "Server" else None, (logs / _SUMMARY).read_text())


def read_summary(scenario: Scenario, target_per_s: float | None, text: str) -> Tested:
    """What LoadGen's summary says.

    Raises:
        ValueError: it has no result.
    """
    result = re.search(r"^Result is : (\w+)$", text, re.MULTILINE)
    if result is None:
        raise ValueError(f"LoadGen's summary has no result:\n{text}")
    rates = {
        "SingleStream": r"QPS w/o loadgen overhead\s*: ([\d.e+]+)",
        "Offline": r"Samples per second: ([\d.e+]+)",
        "Server": r"Completed samples per second\s*: ([\d.]+)",
    }
    rate = re.search(rates[scenario], text)
    percentiles = re.findall(r"^([\d.]+) percentile latency \(ns\)\s*: (\d+)$", text, re.MULTILINE)
    valid = result.group(1) == "VALID"
    unmet = re.findall(r"^ +(\w[\w ]+ satisfied ?: NO)$", text, re.MULTILINE | re.IGNORECASE)
    return Tested(
        scenario=scenario,
        valid=valid,
        target_per_s=target_per_s,
        achieved_per_s=float(rate.group(1)) if rate else None,
        percentiles_ms={} if scenario == "Offline" else {name: int(value) / _MS for name, value in percentiles},
        judgement="" if valid else "; ".join(unmet) or "not valid",
    )
