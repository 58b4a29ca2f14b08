"""The README is true: its example runs, its map is complete, its commands exist."""

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


def test_every_source_file_is_on_the_map_and_every_line_of_the_map_is_a_file() -> None:
    on_map = set(re.findall(r"^\| `([^`]+\.py)` \|", README, flags=re.MULTILINE))
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in ("pipeline", "export", "bench")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert on_map == there


@pytest.mark.parametrize("target", ["run", "test"])
def test_the_two_commands_are_targets(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
