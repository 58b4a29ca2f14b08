"""A run's artifacts are compared, and shipped, at the thread count at which they are faster."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from bench.timing.measurement import SessionRecord
from bench.verdict.judge import Verdict
from export.artifact import open_artifact
from export.environment import cores_count
from export.record import read, write
from pipeline.console import Console
from pipeline.find import find
from pipeline.run import open_run
from pipeline.stages.threads import at_better_threads
from tests.conftest import pipeline
from tests.pipeline.bundles import edit
from tests.pipeline.conftest import latest


@pytest.mark.parametrize("better", [1, pytest.param(cores_count(), marks=pytest.mark.slow)])
def test_what_is_compared_is_tested_at_that_count_and_ships_with_it(mine: Path, better: int) -> None:
    """The samples of the other count are made slower on disk, as a neighbour or a small model makes them."""
    run = RunFolder(latest(mine))

    def slower(record: Any) -> None:
        for samples in record["samples"]:
            samples.pop("spoilt_count", None)  # by whatever else runs here
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


@pytest.mark.parametrize("others_were_measured", [True, False])
def test_what_is_not_measured_again_keeps_the_report_that_was_asked_for(
    others_were_measured: bool, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the verdict's row, and whoever reads the run, would have two opinions of its threads."""
    files = RunFolder(latest(mine))
    asked = read(ParityReport, files.parity_report("onnx"))
    write(files.parity_as_asked("onnx"), asked)
    options = replace(asked.options, threads_count=asked.options.threads_count + 1)
    write(files.parity_report("onnx"), replace(asked, options=options))
    monkeypatch.chdir(mine)
    with open_run(find("cheap.py"), "cpu", Path("artifacts"), Console(quiet=True)) as run:
        trained, program = Mock(), Mock()  # nothing is judged again
        artifacts = {"onnx": open_artifact(files.artifact("onnx"))}
        session = read(SessionRecord, files.session) if others_were_measured else None
        at_better_threads(run, trained, program, artifacts, {"onnx": asked}, (session, {}))
    assert read(ParityReport, files.parity_report("onnx")).options == asked.options
    assert not files.parity_as_asked("onnx").exists()


def test_another_run_that_takes_over_a_report_has_it_where_it_is_looked_for(mine: Path) -> None:
    files = RunFolder(latest(mine))
    write(files.parity_as_asked("onnx"), read(ParityReport, files.parity_report("onnx")))
    files.parity_report("onnx").unlink()
    done = pipeline("cheap.py", "--limits.max-median-ms", "1000", "--only", "parity", cwd=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    (other,) = [run for run in files.path.parent.glob("*/recipe.json") if run.parent.resolve() != files.path.resolve()]
    assert RunFolder(other.parent).parity_report("onnx").exists()
