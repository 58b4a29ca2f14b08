"""A training loop of the user's own: what it gets, what it must return, and how it is run by the pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export.errors import UserError
from pipeline.cli import parse
from pipeline.recipe import Data, Progress, Recipe, Split
from tests.conftest import pipeline
from tests.pipeline.training.small import Net, metrics, recipe, run, weights

FILE = """
import torch
from tests.pipeline.training import small
from dataclasses import replace

def my_train(module, data, device, folder, progress):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for epoch in range(3):
        optimizer.zero_grad()
        loss = small.loss(module(data.train.inputs["x"].to(device)), data.train.targets.to(device))
        loss.backward()
        optimizer.step()
        progress.say(f"mine: {loss.item():.3f}")
        progress.note({"epoch": epoch + 1, "train_loss": loss.item()})
    return module

def recipe():
    return replace(small.recipe(), train=my_train, loss=None, name="own")
"""


def mine(module: nn.Module, data: Data, device: torch.device, folder: Path, progress: Progress) -> nn.Module:
    """One step of its own; the second try of a killed run would find the file."""
    assert isinstance(data.train, Split)
    assert device == torch.device("cpu")
    (folder / "mine.txt").write_text("where I was")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    progress.advance(1, 1, "done")
    progress.note({"epoch": 1, "train_loss": 0.5})
    return module


def own(loop: Callable[..., Any]) -> Recipe:
    return replace(recipe(), train=loop, loss=None)


def test_the_module_that_a_loop_returns_is_the_checkpoint(tmp_path: Path) -> None:
    lines: list[str] = []
    checkpoint = run(own(mine), tmp_path, lines)
    torch.manual_seed(3)
    expected = Net()
    assert torch.equal(weights(tmp_path)["head.weight"], expected.head.weight.detach() + 1)
    assert metrics(tmp_path) == [{"epoch": 1, "train_loss": 0.5}]
    assert {"train_accuracy", "validation_accuracy"} == checkpoint.metrics.keys()
    assert (checkpoint.epochs_count, checkpoint.kept_epoch) == (0, 0)
    assert [line.partition(":")[0] for line in lines] == ["Accuracy", "Accuracy"]
    assert not (tmp_path / "own").exists()


def test_what_a_killed_loop_left_in_its_folder_is_there_for_the_next(tmp_path: Path) -> None:
    def killed(module: nn.Module, data: Data, device: torch.device, folder: Path, progress: Progress) -> nn.Module:
        mine(module, data, device, folder, progress)
        raise KeyboardInterrupt

    def resumed(module: nn.Module, data: Data, device: torch.device, folder: Path, progress: Progress) -> nn.Module:
        assert (folder / "mine.txt").read_text() == "where I was"
        return module

    with pytest.raises(KeyboardInterrupt):
        run(own(killed), tmp_path)
    run(own(resumed), tmp_path)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda module: None, "must return the trained module, got NoneType"),
        (nn.Sequential, "'0.head.bias' is .3,., the model has none of that name; of a wrapper"),
        (lambda module: module.head.weight.data.fill_(float("inf")) is None or module, "'head.weight' is not finite"),
    ],
)
def test_what_a_loop_must_return_is_said(result: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(own(lambda module, data, device, folder, progress: result(module)), tmp_path)


def test_a_loop_without_data_is_refused() -> None:
    with pytest.raises(UserError, match="training needs data"):
        replace(own(mine), data=None)


def test_the_pipeline_trains_by_a_loop_of_the_users_own_which_has_no_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(FILE)
    done = pipeline("own.py", "--only", "train", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train    mine: " in done.stdout
    (record,) = (tmp_path / "artifacts" / "own").glob("*/recipe.json")
    assert json.loads(record.read_bytes())["settings"]["train"] == "own:my_train"
    located, _ = parse([str(tmp_path / "own.py"), "--seed", "4"], "a command")
    assert callable(located.recipe.train)
    assert located.recipe.seed == 4
    with pytest.raises(SystemExit):
        parse([str(tmp_path / "own.py"), "--help"], "a command")
    assert "--train" not in capsys.readouterr().out
