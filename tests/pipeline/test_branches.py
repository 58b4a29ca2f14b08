"""Both sides of a branch, and every number of steps, are in the artifacts of the recipe ``branches``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export import registry
from export.backend import LoadOptions
from export.build import BuildJob, CaptureJob, Source, build, capture
from export.completion import complete
from export.roads import NoRoadError
from export.signature import Signature
from pipeline.recipes import branches
from tests.conftest import pipeline


class OneSided(branches.Branches):
    """What an exporter makes of the model that follows one example: a loud signal of so many steps."""

    def forward(self, signal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = self._loud(self.features(signal.unsqueeze(1)).abs().mean(2))
        steps = torch.zeros((), dtype=torch.int64)
        for _ in range(5):
            steps, state = self._step(steps, state)
        return self.head(state), steps


def module(name: str) -> nn.Module:
    torch.manual_seed(0)
    kind = {"both": branches.Branches, "one": OneSided}[name]
    return kind().eval()


def signature() -> Signature:
    return complete(module("both"), branches.recipe().signature, seed=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model's artifacts that are built in seconds, and the one-sided model's program."""
    base = tmp_path_factory.mktemp("branches")
    return {
        "exported": make("both", "exported", base),
        "onnx": make("both", "onnx", base),
        "one-sided": make("one", "exported", base),
    }


def make(name: str, backend: str, base: Path) -> Path:
    source = Source(function="tests.pipeline.test_branches:module", argument=name)
    program, folder = base / f"{name}-program", base / f"{name}-{backend}"
    shared: dict[str, Any] = {
        "source": source,
        "signature": signature(),
        "seed": 0,
        "key": "k",
        "checkpoint_sha256": "c",
    }
    if not program.exists():
        program.mkdir()
        capture(CaptureJob(folder=str(program), **shared))
    folder.mkdir()
    build(BuildJob(backend=backend, device="cpu", program=str(program), folder=str(folder), **shared))
    return folder


def answers(folder: Path) -> list[tuple[bool, int, float]]:
    """For twenty signals: whether it is loud, its number of steps, how far the artifact's answers are off."""
    runner = registry.load(folder, LoadOptions(threads_count=2))
    reference, rows = module("both"), []
    for seed in range(20):
        signal: Any = signature().example({"time": 8 + 9 * seed}, seed)["signal"]
        with torch.no_grad():
            scores, steps = reference(torch.from_numpy(signal))
        outputs = runner({"signal": signal})
        off = np.abs(outputs["scores"] - scores.numpy()).max() + abs(int(outputs["steps"]) - int(steps))
        rows.append((bool((signal**2).mean() > 1.0), int(steps), float(off)))
    return rows


@pytest.mark.parametrize("backend", ["exported", "onnx"])
def test_both_sides_and_every_number_of_steps_are_right(backend: str, folders: dict[str, Path]) -> None:
    rows = answers(folders[backend])
    assert {is_loud for is_loud, _, _ in rows} == {True, False}
    assert len({steps for _, steps, _ in rows}) > 2
    assert max(off for _, _, off in rows) < 1e-5


def test_an_artifact_of_one_side_is_seen(folders: dict[str, Path]) -> None:
    """The twin: what holds the example's side alone differs on the other."""
    rows = answers(folders["one-sided"])
    assert all(off > 0.01 for is_loud, _, off in rows if not is_loud)


def test_torchscript_says_in_one_sentence_that_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(NoRoadError, match=r"not by script: .*; not by trace: ") as refused:
        make("both", "torchscript", tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_every_other_backend_passes_parity(tmp_path: Path) -> None:
    done = pipeline("branches", "--only", "parity", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("parity") and ": pass" in line}
    assert passed == {"eager:", "exported:", "compile:", "aotinductor:", "onnx:"}
