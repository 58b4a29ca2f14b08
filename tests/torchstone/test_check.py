"""The front door: a script without a recipe, without a guard around it, and with a class that only it has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import torchstone
from export.errors import UserError
from tests.conftest import ROOT, environ
from tests.models import Mlp

SCRIPT = """
import json
import torch
from torch import nn
import torchstone

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, features):
        return {"scores": self.layers(features), "total": features.sum(1)}

features = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
result = torchstone.check(
    Net(), features, backends=("eager", "torchscript", "onnx"),
    bench=torchstone.BenchSpec(batch_rows=(1,), processes_count=2, rounds_count=5, callers_s=0.02, cold_starts_count=0,
        calls_count=50),
    parity=torchstone.ParitySpec(rows_count=64),
)
print(result)
served = result.save("serving")
print("RESULT", json.dumps({
    "good": result.good, "winner": result.winner, "rows": {row.name: row.status for row in result},
    "onnx": str(result["onnx"].path), "folder": str(result.folder), "served": str(served), "page": str(result.report),
    "scores": result["onnx"].load()({"features": features.numpy()})["scores"].tolist(),
    "own": Net().eval()(features)["scores"].tolist(),
}))
"""


def run_script(folder: Path) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=environ(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed, _, line = done.stdout.partition("RESULT ")
    return json.loads(line), printed


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder of a script that was run once, what it says, and what it printed."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "script.py").write_text(SCRIPT)
    return folder, *run_script(folder)


def test_three_lines_build_prove_measure_and_ship(checked: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, printed = checked
    assert result["good"]
    assert result["rows"] == {"eager": "pass", "torchscript": "pass", "onnx": "pass"}
    assert result["winner"] in {"torchscript", "onnx"}
    assert torch.allclose(torch.tensor(result["scores"]), torch.tensor(result["own"]), atol=1e-5)
    assert "assumed  only dimension 0, which all inputs share, moves" in printed
    assert "by trace, not by script" not in printed  # the script's own source is found in another process
    assert "assumed: inputs features float32[batch, 6]" in printed
    assert Path(result["page"]).read_text().count("<!doctype html>") == 1
    session = onnxruntime.InferenceSession(result["onnx"], providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["scores", "total"]
    assert Path(result["served"]) == folder / "serving" / "1"
    verified = subprocess.run(
        [sys.executable, "-m", "pipeline.verify", result["served"], "--no-speed"],
        env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_an_unchanged_script_reuses_everything_and_the_commands_know_its_run(
    checked: tuple[Path, dict[str, Any], str],
) -> None:
    folder, result, _ = checked
    again, printed = run_script(folder)
    assert again["folder"] == result["folder"]
    for stage in ("capture  reused", "onnx: reused", "onnx: pass, largest error"):
        assert stage in printed
    located = subprocess.run(
        [sys.executable, "-m", "pipeline.locate", result["folder"], "onnx"],
        cwd=folder, env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert located.returncode == 0, located.stdout + located.stderr
    assert "onnx: parity pass" in located.stdout


@pytest.mark.slow
def test_an_edited_class_is_another_run(checked: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    _, result, _ = checked
    text = SCRIPT.replace("features.sum(1)", "features.sum(1) + 1").replace("torchstone.check(", "torchstone.export(")
    (tmp_path / "script.py").write_text(text.replace('served = result.save("serving")', "served = None"))
    edited, printed = run_script(tmp_path)
    assert Path(edited["folder"]).name != Path(result["folder"]).name
    assert edited["good"]
    assert edited["winner"] is None
    assert "capture  traced in" in printed


def test_what_was_only_exported_does_not_ship(tmp_path: Path) -> None:
    result = torchstone.export(Mlp(), torch.zeros(3, 4), out=tmp_path, backends=("eager",), quiet=True)
    assert result["eager"].status == "pass"
    assert str(result).splitlines()[0].split() == ["backend", "parity"]
    with pytest.raises(UserError, match=r"nothing was measured, so nothing was chosen: torchstone\.check chooses"):
        result.save(tmp_path / "serving")
    with pytest.raises(KeyError, match="'onnx' is none of eager"):
        result["onnx"]


def test_what_cannot_be_checked_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model must be a torch\.nn\.Module, got str"):
        torchstone.check("seed", ())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must be the folder of an artifact"):
        torchstone.load(tmp_path)
    with pytest.raises(UserError, match="does not accept its own example input"):
        torchstone.export(Mlp(), torch.zeros(3, 5), out=tmp_path, backends=("eager",), quiet=True)


def test_a_file_that_bears_the_name_of_a_package_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "export.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "script.py").write_text("import torchstone\n")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{tmp_path / 'export.py'} hides Torchstone's package 'export': rename it" in done.stderr


def test_the_public_names_are_typed() -> None:
    assert (ROOT / "torchstone" / "py.typed").exists()
    assert all(hasattr(torchstone, name) for name in torchstone.__all__)
