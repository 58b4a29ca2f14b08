from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.load import LoadReport, highest, missing, read_summary
from export.record import read
from tests.conftest import ROOT, environ

SUMMARY = """
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 3664.20
Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
  Early stopping satisfied: NO
Additional Stats
50.00 percentile latency (ns)   : 152000
99.00 percentile latency (ns)   : 1070000
"""


def test_a_summary_is_read_with_loadgens_own_reasons() -> None:
    tested = read_summary("Server", 4000.0, SUMMARY)
    assert (tested.valid, tested.target_per_s, tested.achieved_per_s) == (False, 4000.0, 3664.2)
    assert tested.percentiles_ms == {"50.00": 0.152, "99.00": 1.07}
    assert tested.judgement == "Performance constraints satisfied : NO; Early stopping satisfied: NO"
    assert read_summary("Server", 1.0, SUMMARY.replace("INVALID", "VALID")).valid
    with pytest.raises(ValueError, match="has no result"):
        read_summary("Server", 1.0, "nothing")


def test_the_highest_rate_is_a_valid_one() -> None:
    one = read_summary("Server", 100.0, SUMMARY.replace("INVALID", "VALID"))
    assert highest([one, read_summary("Server", 900.0, SUMMARY)]) == 100.0
    assert highest([read_summary("Server", 900.0, SUMMARY)]) is None


@pytest.mark.extra
@pytest.mark.skipif(missing() is not None, reason=f"extra: {missing()}")
def test_loadgen_finds_a_rate_that_holds(built: Path) -> None:
    command = [sys.executable, "-m", "pipeline.load", str(built), "--p99-ms", "50", "--duration-s", "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environ())
    assert done.returncode == 0, done.stdout + done.stderr
    report = read(LoadReport, built / "load" / "onnx.json")
    scenarios = [one.scenario for one in report.tests]
    assert scenarios[:2] == ["SingleStream", "Offline"]
    assert report.server_per_s == highest(report.tests)
    assert report.server_per_s is not None
    server = [one for one in report.tests if one.scenario == "Server" and one.valid]
    assert all(one.percentiles_ms["99.00"] <= 50 for one in server)
    assert f"{report.server_per_s:,.0f} queries/s" in done.stdout


def test_a_limit_must_be_known(built: Path) -> None:
    command = [sys.executable, "-m", "pipeline.load", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environ())
    assert done.returncode == 2
    assert "--p99-ms MS" in done.stderr or "mlcommons-loadgen is not installed" in done.stderr
