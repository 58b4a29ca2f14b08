"""What a run tells a person to do next can be done: its commands run as they are printed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import hints
from tests.conftest import environ, pipeline
from tests.pipeline.conftest import NET, latest

COMMAND = re.compile(r"((?:\S*/)?(?:python[\d.]* -m [a-z.]+|torchstone [a-z]+) \S.*)$", re.MULTILINE)


def altered(artifact: Path, file: Path) -> str:
    """A copy of an ONNX artifact with wrong weights."""
    model = onnx.load(artifact / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
    onnx.save(model, file)
    return str(file)


def run_printed(output: str, cwd: Path) -> list[tuple[str, subprocess.CompletedProcess[str]]]:
    """Every command of an output with its end, in a shell."""
    return [
        (line, subprocess.run(line, shell=True, cwd=cwd, env=environ(), capture_output=True, text=True, check=False))
        for line in COMMAND.findall(output)
    ]


@pytest.mark.parametrize("only", ["parity", pytest.param("judge", marks=pytest.mark.slow)])
def test_the_commands_of_a_failed_run_run_as_they_are_printed(only: str, mine: Path) -> None:
    """Also from a folder whose name a shell would take apart."""
    folder = mine.rename(mine.parent / "two words; and more")
    file = altered(latest(folder) / "artifacts" / "onnx", folder / "wrong.onnx")
    done = pipeline("cheap.py", "--artifacts", "wrong", file, "--required", "wrong", "--only", only, cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    ((line, end),) = run_printed(done.stdout, folder)
    assert "✗ wrong: " in done.stdout
    assert shlex.split(line)[-1] == "wrong"
    assert end.returncode in {0, 1}, line + end.stdout + end.stderr
    assert end.stdout.startswith("wrong: parity fail")


def test_a_good_run_prints_its_files_and_no_next_step(finished: Path) -> None:
    done = pipeline("cheap.py", cwd=finished)
    assert done.returncode == 0
    assert run_printed(done.stdout, finished) == []
    for name in ("report", "bundle"):
        path = re.search(f"^{name}: (.*)$", done.stdout, re.MULTILINE)
        assert path is not None
        assert Path(path[1]).exists()


def test_a_row_that_failed_has_its_reason_and_its_log_in_two_lines(mine: Path) -> None:
    (mine / "net.py").write_text(
        NET.replace("torch.tanh(self.fc(x))", "torch.special.gammainc(torch.ones(1), self.fc(x).abs() + 1)")
    )
    done = pipeline("cheap.py", "--only", "build", cwd=mine)
    assert done.returncode == 1
    (at,) = [i for i, line in enumerate(done.stdout.splitlines()) if line.startswith("✗ onnx: build: failed: ")]
    name, _, log = done.stdout.splitlines()[at + 1].partition(": ")
    assert name == "  log"
    assert "igamma" in Path(log).read_text()


@pytest.mark.slow
def test_a_model_that_was_not_traced_is_not_located_and_that_is_said(mine: Path) -> None:
    branch = "(torch.tanh(self.fc(x)) if bool(x.sum() > 0) else -self.fc(x))"
    (mine / "net.py").write_text(NET.replace("torch.tanh(self.fc(x))", branch))
    few = ("cheap.py", "--only", "parity", "--backends", "eager", "onnx", "--artifacts", "wrong")
    built = pipeline(*few, altered(latest(mine) / "artifacts" / "onnx", mine / "wrong.onnx"), cwd=mine)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "✗ wrong: " in built.stdout
    assert run_printed(built.stdout, mine) == []
    folder = re.search(r"in (\S+)$", built.stdout.splitlines()[0])
    assert folder is not None
    locate = [sys.executable, "-m", "pipeline.locate", folder[1], "wrong"]
    end = subprocess.run(locate, env=environ(), capture_output=True, text=True, check=False)
    assert end.returncode == 2
    assert end.stderr.startswith("error: wrong cannot be compared value by value with the traced program, since ")
    assert "net.py:" in end.stderr


def test_the_only_run_is_found_by_its_recipe_and_one_that_stopped_before_parity_says_so(mine: Path) -> None:
    run = latest(mine)
    (run.parent / "latest").unlink()
    (run / "parity" / "onnx.json").unlink()
    locate = [sys.executable, "-m", "pipeline.locate", "cheap", "onnx"]
    end = subprocess.run(locate, cwd=mine, env=environ(), capture_output=True, text=True, check=False)
    assert end.returncode == 2
    assert end.stderr.startswith(f"error: {run} has no parity of onnx yet")


@pytest.mark.parametrize(
    ("started", "name", "words"),
    [
        ("/usr/bin/torchstone", "locate", ["/usr/bin/torchstone", "locate"]),
        ("/lib/torchstone/__main__.py", "locate", [sys.executable, "-m", "torchstone", "locate"]),
        ("/lib/pipeline/all.py", "locate", [sys.executable, "-m", "pipeline.locate"]),
        ("/lib/pipeline/all.py", "run", [sys.executable, "-m", "pipeline.all"]),
        ("script.py", "list", [sys.executable, "-m", "torchstone", "list"]),
    ],
)
def test_a_command_is_called_as_the_process_was(
    started: str, name: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setenv("PATH", "/nowhere")
    assert shlex.split(hints.command(name, Path("two words"), "onnx")) == [*words, "two words", "onnx"]


def test_a_program_that_a_shell_finds_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "torchstone"
    script.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hints.command("locate", "seed", "onnx") == "torchstone locate seed onnx"


def test_what_is_missing_is_installed_from_the_distribution_or_from_the_checkout(tmp_path: Path) -> None:
    """What is installed has no project file beside its packages."""
    code = "from export import hints; print(hints.install('openvino'))"

    def printed(where: Path, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=where,
            env=environ(**environment),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    root = Path(hints.__file__).resolve().parents[1]
    assert printed(tmp_path) == f"pip install '{root}[openvino]'"
    assert printed(root) == "pip install '.[openvino]'"
    shutil.copytree(root / "export", tmp_path / "export")
    assert printed(tmp_path, PYTHONPATH=str(tmp_path)) == "pip install 'torchstone[openvino]'"
