"""``torchstone check`` as a person starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from bench.run_folder import RunFolder
from export.artifact import read_artifact
from export.errors import UserError
from tests.conftest import SHORT
from tests.torchstone.test_main import command
from torchstone.commands import check

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 4)

    def forward(self, ids, mask):
        return (self.table(ids) * mask.unsqueeze(-1)).sum(1)

def build():
    return Net()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of the user's: a package, two example calls, weights."""
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "__init__.py").write_text("")
    (tmp_path / "mypkg" / "nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    for name, length in (("short", 5), ("long", 9)):
        ids = rng.integers(0, 11, (3, length))
        np.savez(tmp_path / f"{name}.npz", ids=ids, mask=np.ones((3, length), np.float32))
    save_file({"table.weight": torch.linspace(-1, 1, 44).reshape(11, 4)}, tmp_path / "weights.safetensors")
    return tmp_path


def test_a_model_of_the_users_is_exported_judged_and_bundled(project: Path) -> None:
    done = command(
        "check", "mypkg.nets:build", "--inputs", "short.npz", "long.npz", "--weights", "weights.safetensors",
        "--dynamic", "ids:batch,length", "mask:batch,length", "--range", "length=1:16", "batch=1:64",
        "--backends", "eager", "onnx", "--name", "bag", "--json",
        *SHORT, "--bench.batch-rows", "1", "--bench.cold-starts-count", "0", "--parity.rows-count", "64",
        cwd=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["recipe"], verdict["winner"], verdict["good"]) == ("bag", "onnx", True)
    run = RunFolder((project / "artifacts" / "bag" / "latest").resolve())
    signature = read_artifact(run.artifact("onnx")).signature
    assert {spec.name: spec.shape for spec in signature.inputs} == {
        "ids": ("batch", "length"), "mask": ("batch", "length"),
    }  # fmt: skip
    assert (signature.ranges["length"].min, signature.ranges["length"].max) == (1, 16)
    assert run.bundle.is_dir()
    listed = json.loads(command("runs", "--json", cwd=project).stdout)
    assert [(run["recipe"], run["winner"], run["is_latest"]) for run in listed] == [("bag", "onnx", True)]


def test_only_parity_prints_the_rows(project: Path) -> None:
    done = command(
        "check", "mypkg/nets.py:Net", "--inputs", "short.npz", "--only", "parity", "--backends", "eager", cwd=project
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "assumed  inputs ids int64[batch, 5], mask float32[batch, 5]" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["backend  parity", "eager    pass"]


def write_activation(path: Path, *operators: str) -> None:
    """An ONNX file of a few operators one after the other."""
    names = ["x", *(f"v{number}" for number in range(1, len(operators))), "y"]
    graph = helper.make_graph(
        [
            helper.make_node(operator, [given], [made])
            for operator, given, made in zip(operators, names[:-1], names[1:], strict=True)
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))


def test_a_file_is_held_to_the_file_that_it_was_made_from(tmp_path: Path) -> None:
    write_activation(tmp_path / "original.onnx", "Tanh", "Identity")
    write_activation(tmp_path / "slim.onnx", "Tanh")
    write_activation(tmp_path / "wrong.onnx", "Sigmoid")
    done = command(
        "check", "slim.onnx", "--against", "original.onnx", "--only", "parity", "--json",
        "--artifacts", "wrong=wrong.onnx", "--required", "slim", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row["status"] for row in json.loads(done.stdout)["rows"]}
    assert rows == {"eager": "pass", "original": "pass", "slim": "pass", "wrong": "fail"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["mypkg.nets:build", "--inputs", "none.npz"], "there is no file none.npz"),
        (["mypkg.nets:build", "--inputs"], "--inputs must name at least one file"),
        (["mypkg.nets:build", "--inputs", "short.npz", "--dynamic", "idz:batch"], "dynamic names 'idz'"),
        (["mypkg.nets:build", "--inputs", "short.npz", "--backends", "onnxx"], "backends must be of eager"),
        (["mypkg.nets:nothing", "--inputs", "short.npz"], "mypkg.nets has no 'nothing'"),
        (
            ["model.onnx"],
            r"model\.onnx is judged by what it was made from: --model package\.module:callable, or --against",
        ),
        (["model.onnx", "--against", "none.onnx"], r"there is no file none\.onnx: --against takes the ONNX file"),
        (["model.onnx", "--against", "a.onnx", "--model", "mypkg.nets:build"], "--against takes the place of a model"),
        (["mypkg.nets:build", "--model", "mypkg.nets:build"], "TARGET is a model already, mypkg.nets:build"),
        (["mypkg.nets:build", "--artifacts", "x.onnx"], "--artifacts takes NAME=FILE, .* got .x.onnx."),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_nothing(
    arguments: list[str], reason: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match=reason):
        check.main(arguments)
    for name in ("mypkg", "mypkg.nets"):
        sys.modules.pop(name, None)
    torch.use_deterministic_algorithms(False)
    assert not (project / "artifacts").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["mypkg.nets:build", "--inputs", "short.npz", "--parity.rows-count", "0"], "parity.rows_count must be >= 1"),
        *(
            pytest.param(arguments, reason, marks=pytest.mark.slow)
            for arguments, reason in (
                (["mypkg.nets:build", "--inputs", "none.npz"], "error: there is no file none.npz"),
                (["mypkg.nets:build"], "--inputs must name at least one file of example calls"),
            )
        ),
    ],
)
def test_it_ends_with_2_and_on_one_screen(arguments: list[str], reason: str, project: Path) -> None:
    done = command("check", *arguments, cwd=project)
    assert done.returncode == 2
    assert reason in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 24


def test_all_settings_are_flags_and_the_short_help_names_their_groups(project: Path) -> None:
    whole, short = command("check", "mypkg.nets:build", "--help", cwd=project), command("check", "--help")
    for flag in ("--inputs", "--weights", "--dynamic", "--range", "--required", "--only", "--name", "--seed", "--json"):
        assert flag in whole.stdout
        assert f"  {flag} " in short.stdout
    for group, flag in (("parity", "depth"), ("bench", "depth"), ("limits", "max-p99-ms"), ("process", "wall-s")):
        assert f"--{group}.{flag}" in whole.stdout
        assert f"  --{group}.* " in short.stdout
