"""The README is true: its examples run, its commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, SHORT, pipeline

README = (ROOT / "README.md").read_text()


def _python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_recipe_runs_as_it_stands(tmp_path: Path) -> None:
    example = next(block for block in _python_blocks() if "def recipe()" in block)
    assert len(example.splitlines()) <= 35
    (tmp_path / "wine.py").write_text(example)
    short = ("--backends", "eager", "torchscript", "onnx", *SHORT, "--bench.cold-starts-count", "0")
    done = pipeline("wine.py", "--json", *short, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["good"]
    assert verdict["metrics"]["test_accuracy"] > 0.9
    assert (tmp_path / "artifacts" / "wine" / "latest" / "report.html").is_file()


def test_the_serving_example_answers(built: Path) -> None:
    example = next(block for block in _python_blocks() if "InferenceSession" in block)
    model = str(built / "bundle" / "model.onnx")
    scope: dict[str, object] = {}
    exec(example.replace("serving/current/model.onnx", model).replace("print(", "answer = ("), scope)
    answer = scope["answer"]
    assert isinstance(answer, list)
    assert answer[0].shape == (5, 1)


@pytest.mark.parametrize("target", ["run", "test", "check"])
def test_the_commands_are_targets(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
