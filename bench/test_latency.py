"""Latency of every artifact at every batch size, through pytest-benchmark.

Gates what does not flake: files as recorded, parity passed, these very files the ones that passed, the timed call
answering as the checked one does, and nothing executed elsewhere than asked. Times are shown, stored and compared by
pytest-benchmark, never asserted: claims about speed come from the run's report (see conftest.py).
"""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import BATCH_ROWS, Bench
from bench.timing.block import waited
from bench.timing.inputs import mismatched_output
from export.arrays import to_torch
from export.record import digest


@pytest.mark.parametrize("batch_rows", BATCH_ROWS)
def test_latency(bench: Bench, batch_rows: int, benchmark: BenchmarkFixture) -> None:
    import torch

    assert bench.parity.status == "pass", f"parity of {bench.artifact.name}: {bench.parity.reasons}"
    assert bench.parity.artifact_sha256 == digest(bench.artifact), "the artifact is not the one that passed parity"
    inputs: Any = bench.inputs(batch_rows)
    benchmark.group = f"batch {batch_rows}"
    benchmark.extra_info.update(bench.facts(batch_rows))
    runner = bench.load()
    with torch.inference_mode():
        checked = runner(inputs)
        bound = runner.bind({name: to_torch(array, runner.device) for name, array in inputs.items()})
        outputs = benchmark(waited(bound.run, runner.device))
    assert mismatched_output(checked, outputs) is None, "the timed call answers otherwise than the checked one"
    witness = runner.witness()
    assert witness.fallback is None, witness.fallback
