"""From a run with a wrong artifact to the line of code: the commands as a person types them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bench.parity.calibrate import Calibration
from bench.parity.report import ParityReport
from export.record import read
from tests.conftest import BUILT, ROOT, SHORT, environ, pipeline
from tests.model_run import vouch


@pytest.fixture(scope="module")
def own(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built run's output folder, to be changed."""
    out = tmp_path_factory.mktemp("own") / "out"
    shutil.copytree(built.parents[1], out, symlinks=True)
    return out


def command(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"pipeline.{name}", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environ(),
    )  # fmt: skip


def test_a_right_artifact_has_nothing_to_locate(own: Path) -> None:
    done = command("locate", "seed", "onnx", "--out", own)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "onnx: parity pass"


@pytest.mark.slow
def test_the_wrong_artifacts_line_of_code_is_named(own: Path) -> None:
    folder = (own / "seed" / "latest").resolve() / "artifacts" / "onnx"
    model = onnx.load(folder / "model.onnx")
    tensor = next(t for t in model.graph.initializer if t.name.endswith("fc2.weight"))
    array = numpy_helper.to_array(tensor).copy()
    array.flat[np.abs(array).argmax()] *= np.float32(1.001)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, folder / "model.onnx")
    vouch(folder)
    few = ("--backends", "eager", "onnx", "--required", "onnx", *SHORT, "--bench.cold-starts-count", "0")
    judged = pipeline("seed", *few, "--out", own)
    assert judged.returncode == 1
    run = (own / "seed" / "latest").resolve()
    assert "fc2.weight differs from the checkpoint in 1 of 4 values" in judged.stdout.replace("\n", " ")
    assert f" -m pipeline.locate {run} onnx\n" in judged.stdout
    verdict = json.loads((run / "verdict.json").read_bytes())
    assert verdict["winner"] is None
    done = command("locate", "seed", "onnx", "--out", own)
    assert (done.returncode, done.stderr) == (0, "")
    assert "first at fault: fc2" in done.stdout
    assert "seed.py" in done.stdout
    assert "out = self.fc2(out)" in done.stdout
    found = json.loads(command("locate", "seed", "onnx", "--out", own, "--json").stdout)
    assert found["suspect"]["module"] == "fc2"
    page = (run / "report.html").read_text()
    assert 'class="fail"' in page


def test_an_unknown_artifact_is_named_with_those_there_are(own: Path) -> None:
    done = command("locate", "seed", "tensorrt", "--out", own)
    assert done.returncode == 2
    there = ", ".join(sorted(path.name for path in (own / "seed" / "latest" / "artifacts").iterdir()))
    assert f"has no artifact 'tensorrt', it has {there}" in done.stderr


def test_the_range_audit_passes_a_small_model(own: Path) -> None:
    done = command("locate", "seed", "onnx", "--out", own, "--range-audit")
    assert "values leave the range of float16" in done.stdout


@pytest.mark.slow
def test_calibration_prints_what_would_be_seen_and_judges_from_then_on(own: Path) -> None:
    done = command("calibrate", *BUILT, "--out", own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 64 equivalent variants 0 would fail the recipe's own" in done.stdout
    assert "one weight changed" in done.stdout
    (file,) = (own / "seed").glob("*/parity/calibration.json")
    run = file.parents[1]
    calibration = read(Calibration, run / "parity" / "calibration.json")
    assert len(calibration.variants) == 64
    assert all(one.seen is not None for one in calibration.sensitivities)
    before = read(ParityReport, run / "parity" / "eager.json")
    pipeline(*BUILT, "--out", own, "--only", "parity")
    assert read(ParityReport, run / "parity" / "eager.json").key != before.key
