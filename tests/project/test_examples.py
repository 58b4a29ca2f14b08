"""The examples run as they stand, from a folder of the user's, and say what they teach."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT, environ

FOLDER = ROOT / "examples"
SAYS = {
    "check_model": ("★  onnx", "shipped: "),
    "notebook": ("onnx     pass", "largest difference: "),
    "judge_onnx": ("mine       pass", "optimised  pass", "original   pass", "eager is model.onnx, run node by node"),
    "hugging_face": ("onnx     pass", "length in [2, 64]", "attention_mask in [0, 1]"),
    "vision": ("onnx     pass", "mask ('batch', 1, 'height', 'width')"),
    "train_lightning": ("`Trainer.fit` stopped", "onnx: pass"),
    "train_hugging_face": ("train_runtime", "onnx: pass"),
    "ci_gate": ('"good": true', '"winner": "onnx"'),
}
"""What each prints, at least."""
NEEDS = {"hugging_face": "transformers", "train_hugging_face": "accelerate", "train_lightning": "lightning"}
"""What some of them import that no test environment has."""


def start(script: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script)], cwd=cwd, env=environ(), capture_output=True, text=True, check=False
    )  # fmt: skip


def marks(name: str) -> list[pytest.MarkDecorator]:
    """The notebook stands for all in the default run: the others take up to a minute each."""
    extra = []
    if package := NEEDS.get(name):
        extra = [pytest.mark.extra, pytest.mark.skipif(not find_spec(package), reason=f"extra: pip install {package}")]
    return extra if name == "notebook" else [*extra, pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in SAYS])
def test_an_example_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    done = start(FOLDER / f"{name}.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [text for text in SAYS[name] if text not in done.stdout + done.stderr] == [], done.stdout


def test_every_example_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(SAYS)


@pytest.mark.slow
def test_the_gate_closes_where_a_limit_is_broken(tmp_path: Path) -> None:
    text = (FOLDER / "ci_gate.py").read_text()
    assert "max_size_mb=1)" in text
    (tmp_path / "gate.py").write_text(text.replace("max_size_mb=1)", "max_size_mb=0.001)"))
    done = start(tmp_path / "gate.py", tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert not verdict["good"]
    assert "size" in verdict["rows"]["onnx"]["reasons"][0]
