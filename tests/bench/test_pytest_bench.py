"""``pytest bench/`` as a person runs it: on a run's artifacts, benchmarks taken once each."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from bench.parity.report import ParityReport
from export.record import read, write
from tests.conftest import ROOT, environ


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "bench/", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environ())


def test_every_artifact_and_batch_is_benchmarked_with_its_proof(built: Path, tmp_path: Path) -> None:
    stored = tmp_path / "stored.json"
    quick = ["--benchmark-min-rounds=1", "--benchmark-max-time=0.01", "--benchmark-warmup=off"]
    done = bench("--run", built, *quick, f"--benchmark-json={stored}", "-k", "latency or throughput")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(stored.read_text())["benchmarks"]
    assert len(results) == 5 * 3 + 5
    extra = next(one["extra_info"] for one in results if one["name"] == "test_latency[onnx-32]")
    assert len(extra["artifact_sha256"]) == len(extra["parity_sha256"]) == 64
    assert extra["witness"] == {"nodes_on_CPUExecutionProvider": "4", "precision": "float32"}
    assert len(extra["report_ratio_to_eager"]) == 3


def test_cold_start_answers_from_a_fresh_process(built: Path) -> None:
    done = bench("--run", built, "--benchmark-disable", "-k", "cold_start and onnx")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_an_artifact_that_did_not_pass_parity_fails_the_gate(built: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(built, run)
    path = run / "parity" / "onnx.json"
    report = read(ParityReport, path)
    wrong = replace(report.checks[0], status="fail", message="it is wrong")
    write(path, replace(report, status="fail", reasons=(wrong.message,), checks=(wrong, *report.checks[1:])))
    done = bench("--run", run, "--benchmark-disable", "-k", "latency and onnx")
    assert done.returncode == 1
    assert "it is wrong" in done.stdout


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = bench("--run", tmp_path)
    assert re.search(r"no verdict\.json there; .*python.* -m pipeline\.all makes a run", done.stdout + done.stderr)
    assert done.returncode != 0
