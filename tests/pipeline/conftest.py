"""A cheap recipe of the user's own, run once to its end and shared by all tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import pipeline, shared

RECIPE = """
import time
import torch
from torch import nn
from export.signature import Signature, SizeRange, TensorSpec
from bench.parity.spec import ParitySpec
from bench.timing.spec import BenchSpec
from pipeline.recipe import Data, Recipe, Split, TrainSpec
from net import Net

def data():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return Data(train=Split(inputs={"x": x}, targets=x.sum(1, keepdim=True)))

def loss(outputs, targets):
    time.sleep(0.02)
    return nn.functional.mse_loss(outputs, targets)

def recipe():
    return Recipe(
        name="cheap", model=Net, data=data, loss=loss,
        signature=Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(max=300)}),
        train=TrainSpec(epochs=25, batch_rows=16, lr=0.01, save_every_steps=4),
        backends=("eager", "torchscript", "onnx"),
        bench=BenchSpec(
            batch_rows=(1, 32), processes_count=2, rounds_count=5, callers_s=0.02, cold_starts_count=0
        ),
        parity=ParitySpec(rows_count=64),
    )
"""
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        return torch.tanh(self.fc(x))
"""


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and one finished run of it: copy before you change it."""
    folder = shared(tmp_path_factory, "cheap")
    with FileLock(f"{folder}.lock"):
        if not (folder / "artifacts" / "cheap" / "latest" / "bundle").exists():
            folder.mkdir(exist_ok=True)
            (folder / "cheap.py").write_text(RECIPE)
            (folder / "net.py").write_text(NET)
            done = pipeline("cheap.py", cwd=folder)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def mine(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "mine", symlinks=True)
    return tmp_path / "mine"


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A copy of the shared run's bundle."""
    return Path(shutil.copytree(built / "bundle", tmp_path / "bundle"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this process may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def latest(folder: Path) -> Path:
    """The run in such a folder."""
    return (folder / "artifacts" / "cheap" / "latest").resolve()
