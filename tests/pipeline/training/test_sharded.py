"""Processes that share out the weights train as one would; a kill changes no bit, and the checkpoint has them whole."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export.errors import UserError
from pipeline.recipe import Data, Recipe, TrainSpec
from pipeline.training.sharding import refuse_shared
from tests.pipeline.training.small import (
    kill_at,
    metrics,
    recipe,
    rows,
    run,
    slow_loss,
    weights,
)  # fmt: skip
from tests.pipeline.training.test_distributed import (
    SIZE,
    TOLERANCE,
    assert_a_restart_changes_no_bit,
    ended,
    kill_second,
    together,
)


class Layered(nn.Module):
    """``(batch, 6)`` to logits ``(batch, 3)`` by a list of layers, each a unit; sizes that two do not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 6)) for _ in range(2)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        result: torch.Tensor = self.head(x)
        return result


class Drawing(Layered):
    """The same with buffers and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.append(nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.2)))


def layered(**settings: Any) -> Recipe:
    settings = {"log_every_steps": 1, "lr": 0.01, "batch_rows": 7, "sharded": True} | settings
    return replace(recipe(**settings), model=Layered)


def clipped() -> Recipe:
    """Seven rows a step: one process has four of them in four parts, the other three, which must be as many parts."""
    return layered(accumulate=4, clip_norm=0.5, ema_decay=0.9)


def scaled() -> Recipe:
    return layered(precision="float16", optimizer="sgd")


def scaled_whole() -> Recipe:
    return layered(precision="float16", optimizer="sgd", sharded=False)


def stateful() -> Recipe:
    wanted = layered(
        optimizer="adamw", decay="matrices", weight_decay=0.01, clip_norm=1.0, schedule="cosine", warmup_steps=5,
        ema_decay=0.9, keep="best", save_every_steps=3,
    )  # fmt: skip
    return replace(wanted, model=Drawing, loss=slow_loss)


def assert_alike(first: Path, second: Path, tolerance: float) -> None:
    """All that was written of each step and epoch, and the weights."""
    lines = metrics(first)
    assert len(lines) == 3 * 9 + 3
    for got, line in zip(metrics(second), lines, strict=True):
        assert {name: math.nan if value is None else value for name, value in got.items()} == pytest.approx(
            {name: math.nan if value is None else value for name, value in line.items()}, rel=tolerance, nan_ok=True
        )
    kept = weights(second)
    for name, tensor in weights(first).items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wanted", [pytest.param(layered, marks=pytest.mark.slow), clipped])
def test_two_processes_have_the_losses_of_one_on_the_same_rows(wanted: Any, tmp_path: Path) -> None:
    run(wanted(), tmp_path / "alone")
    assert ended(together(wanted, tmp_path / "both")) == [0, 0], (tmp_path / "both.log").read_text()
    assert_alike(tmp_path / "alone", tmp_path / "both", TOLERANCE)
    assert json.loads((tmp_path / "both" / "checkpoint.json").read_bytes())["world_size"] == SIZE


@pytest.mark.slow
def test_float16_leaves_out_the_steps_that_it_leaves_out_where_each_process_has_all_weights(tmp_path: Path) -> None:
    assert ended(together(scaled_whole, tmp_path / "whole")) == [0, 0]
    assert ended(together(scaled, tmp_path / "parts")) == [0, 0], (tmp_path / "parts.log").read_text()
    assert metrics(tmp_path / "parts")[-1]["skipped_steps"] > 0, "the first scale is too large"
    assert_alike(tmp_path / "whole", tmp_path / "parts", 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_and_says_what_is_not_exact(
    before: int, after: int, tmp_path: Path
) -> None:
    first, *others = together(stateful, tmp_path / "run", before)
    kill_at(first, tmp_path / "run", 14)
    ended(others)
    assert ended(together(stateful, tmp_path / "run", after)) == [0] * after, (tmp_path / "run.log").read_text()
    assert f"the state was saved by {before} process" in (tmp_path / "run.log").read_text()
    run(stateful(), tmp_path / "alone")
    for sharded, line in zip(metrics(tmp_path / "run"), metrics(tmp_path / "alone"), strict=True):
        assert sharded["lr"] == line["lr"]
    assert metrics(tmp_path / "run")[-1]["train_loss"] < metrics(tmp_path / "run")[9]["train_loss"]


@pytest.mark.slow
def test_a_damaged_part_begins_the_training_anew_in_all_processes(tmp_path: Path) -> None:
    first, second = together(stateful, tmp_path / "run")
    kill_at(first, tmp_path / "run", 14)
    ended([second])
    *_, part = sorted((tmp_path / "run").glob("*-parts/*"))
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    assert ended(together(stateful, tmp_path / "run")) == [0, 0], (tmp_path / "run.log").read_text()
    said = (tmp_path / "run.log").read_text()
    assert "the saved state cannot be used, training begins anew" in said
    assert f"{part.name} is not the file that was recorded" in said
    assert "resumed" not in said
    assert len(metrics(tmp_path / "run")) == 3 * 9 + 3


def spoilt() -> Recipe:
    """The second process's row of the first step is not finite, nor is what comes of it."""
    wanted = layered(batch_rows=None)
    assert wanted.data is not None
    split = rows()
    split.inputs["x"][1, 0] = float("inf")
    return replace(wanted, data=lambda: Data(train=split))


def overflowing() -> Recipe:
    return replace(
        layered(batch_rows=None), loss=lambda outputs, targets: (outputs - outputs.detach()).abs().sqrt().sum()
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (spoilt, "the training loss is nan at step 1 (epoch 1)"),
        pytest.param(
            overflowing,
            "seen from the loss, the first gradient that is not finite is that of 'head.bias'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_not_finite_stops_all_with_a_place(wanted: Any, message: str, tmp_path: Path) -> None:
    assert ended(together(wanted, tmp_path / "run")) == [2, 2]
    said = (tmp_path / "run.log").read_text()
    assert message in said
    if wanted is spoilt:
        assert "the input 'x' is not finite" in said


def factored() -> Recipe:
    return layered(optimizer="adafactor")


class ByWeights(Layered):
    """Takes the weights of a layer without calling it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.layers[0][0]  # type: ignore[index]
        return super().forward(x + 0 * nn.functional.linear(x, first.weight).sum())


def by_weights() -> Recipe:
    return replace(layered(), model=ByWeights)


class Summing(torch.optim.SGD):
    """Keeps a sum of each parameter, of which every process has a part."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["total"] = parameter.detach().sum()
        return super().step(closure)


def summing() -> Recipe:
    return replace(layered(), optimizer=lambda module: Summing(module.parameters(), lr=0.01))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (factored, "--train.sharded does not go with Adafactor: aten.pow_"),
        pytest.param(by_weights, "got mixed torch.Tensor and DTensor", marks=pytest.mark.slow),
        pytest.param(
            summing,
            "keeps 'total' of shape () for a parameter of shape (4, 2), which --train.sharded cannot save",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_does_not_work_in_parts_is_refused(wanted: Any, message: str, tmp_path: Path) -> None:
    assert ended(together(wanted, tmp_path / "run")) == [2, 2]
    said = (tmp_path / "run.log").read_text()
    assert message in said
    assert "optimizer such as adamw" in said
    assert not list((tmp_path / "run").glob("metrics.jsonl")) or wanted is by_weights, "nothing was trained before"


class Tied(Layered):
    """The head has the weight of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 7)
        self.last.weight = self.layers[0][0].weight  # type: ignore[index]


def test_a_weight_of_two_units_is_refused_with_both_its_names() -> None:
    with pytest.raises(UserError, match=r"the weight layers\.0\.0\.weight is also last\.weight, of another layer"):
        refuse_shared(Tied())
    refuse_shared(Layered())


def test_sharded_weights_are_not_compiled() -> None:
    with pytest.raises(ValueError, match=r"train\.sharded leaves no weights whole, which train\.compile needs"):
        TrainSpec(sharded=True, compile=True)


def test_a_killed_process_is_the_end_of_all_and_a_restart_changes_no_bit(tmp_path: Path) -> None:
    kill_second(stateful, tmp_path / "killed")
    (folder,) = (tmp_path / "killed").glob("*-parts")
    assert len([*folder.iterdir()]) == SIZE, "each process wrote its part"
    assert_a_restart_changes_no_bit(stateful, tmp_path / "killed", tmp_path / "whole")
    assert not [*(tmp_path / "killed").glob("*-parts")]
    files = json.loads((tmp_path / "killed" / "checkpoint.json").read_bytes())["files"]
    assert [file["path"] for file in files] == ["last.safetensors", "metrics.jsonl", "weights.safetensors"]
