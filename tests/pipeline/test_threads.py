"""A run's artifacts are compared, and shipped, at the thread count at which they are faster."""

from pathlib import Path
from typing import Any

import pytest

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from bench.verdict.judge import Verdict
from export.environment import cores_count
from export.record import read
from tests.conftest import pipeline
from tests.pipeline.bundles import edit
from tests.pipeline.conftest import latest


@pytest.mark.parametrize("better", [1, cores_count()])
def test_what_is_compared_is_tested_at_that_count_and_ships_with_it(mine: Path, better: int) -> None:
    """The samples of the other count are made slower on disk, as a neighbour or a small model makes them."""
    run = RunFolder(latest(mine))

    def slower(record: Any) -> None:
        for samples in record["samples"]:
            if samples["threads_count"] != better:
                samples["samples_s"] = [20 * time_s for time_s in samples["samples_s"]]

    edit(run.measurement("onnx"), slower)
    done = pipeline("cheap.py", cwd=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = [row for row in read(Verdict, run.verdict).rows if row.name == "onnx"]
    assert row.options is not None
    assert row.options.threads_count == better
    assert read(ParityReport, run.parity_report("onnx")).options == row.options
    assert run.parity_as_asked("onnx").exists() == (better != cores_count())
    assert ("onnx: faster with 1 thread than with" in done.stdout) == (better == 1)
    tested_at = (run.log / "parity-onnx.log").stat().st_mtime_ns
    again = pipeline("cheap.py", cwd=mine)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (run.log / "parity-onnx.log").stat().st_mtime_ns == tested_at  # both reports are there
