"""Rows per second of every artifact, at its largest measured batch: the checked call, host memory in and out.

Nothing about speed is asserted; see conftest.py.
"""

from __future__ import annotations

from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import BATCH_ROWS, Bench


def test_throughput(bench: Bench, benchmark: BenchmarkFixture) -> None:
    signature = bench.artifact.signature
    allowed = [rows for rows in BATCH_ROWS if signature.batch and rows in signature.ranges[signature.batch]]
    rows = max(allowed, default=1)
    inputs: Any = bench.inputs(rows)
    runner = bench.load()
    benchmark.group = f"throughput, checked calls of {rows} rows"
    outputs = benchmark(runner, inputs)
    if benchmark.stats is not None:
        benchmark.extra_info["rows_per_s"] = rows / benchmark.stats.stats.median
    assert list(outputs) == list(signature.output_names)
