"""What the settings of a training do, each held to plain PyTorch, or to what it would be without."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from export.device import HOST
from export.errors import UserError
from pipeline.recipe import TrainSpec
from pipeline.training.optimizer import lr_ratio, make_optimizer
from tests.pipeline.training.small import EPOCHS, STEPS_COUNT, Net, metrics, recipe, rows, run, same_bits, weights

PLAIN: dict[str, Any] = {"epochs": 1, "batch_rows": None}
"""One step of all rows, in their order."""


def spec(**settings: Any) -> TrainSpec:
    return TrainSpec(**{"epochs": EPOCHS, "batch_rows": 8} | settings)


def one_step(optimizer: Any, clip_norm: float | None = None, seed: int = 3) -> dict[str, torch.Tensor]:
    """The first step of the recipe ``small`` in plain PyTorch."""
    torch.manual_seed(seed)
    module = Net().train()
    step = optimizer(module)
    split = rows()
    nn.functional.cross_entropy(module(split.inputs["x"]), split.targets, label_smoothing=0.1).backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
    step.step()
    return module.state_dict()


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({"optimizer": "SGD", "momentum": 0.9}, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)),
        (
            {"optimizer": "adamw", "weight_decay": 0.2, "optimizer_form": "fused"},
            lambda m: torch.optim.AdamW(m.parameters(), lr=0.1, weight_decay=0.2, fused=True),
        ),
        (
            {"optimizer": "rmsprop", "optimizer_settings": {"alpha": 0.5}, "optimizer_form": "foreach"},
            lambda m: torch.optim.RMSprop(m.parameters(), lr=0.1, alpha=0.5, foreach=True),
        ),
    ],
    ids=["sgd", "adamw", "rmsprop"],
)
def test_an_optimizer_by_name_is_torchs_own(settings: dict[str, Any], optimizer: Any, tmp_path: Path) -> None:
    run(recipe(**PLAIN, lr=0.1, **settings), tmp_path)
    assert same_bits(weights(tmp_path), one_step(optimizer))


def test_an_optimizer_by_function_replaces_the_named_one(tmp_path: Path) -> None:
    def make(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(module.parameters(), lr=0.3)

    run(replace(recipe(**PLAIN), optimizer=make), tmp_path)
    assert same_bits(weights(tmp_path), one_step(make))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamq"}, "torch.optim has no optimizer 'adamq' .did you mean adam"),
        ({"optimizer": "adam", "momentum": 0.9}, "Adam has no argument 'momentum'"),
        ({"optimizer": "sgd", "optimizer_settings": {"nesterov": True}}, "Nesterov momentum requires a momentum"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_optimizer(spec(**settings), Net())


def test_a_schedule_that_ends_with_the_training_must_know_where_that_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must know how many steps .* set --train\.steps-per-epoch"):
        run(recipe("streamed", schedule="cosine", warmup_steps=5), tmp_path)
    run(recipe("streamed", schedule="cosine", steps_per_epoch=8), tmp_path)


def test_norms_and_biases_do_not_decay_where_only_matrices_do() -> None:
    module = Net()
    decaying, others = make_optimizer(spec(optimizer="adamw", weight_decay=0.1, decay="matrices"), module).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {id(each) for each in decaying["params"]} == {id(module.inner[0].weight), id(module.head.weight)}
    assert len(others["params"]) == 4
    (everything,) = make_optimizer(spec(weight_decay=0.1), module).param_groups
    assert everything["weight_decay"] == 0.1
    assert len(everything["params"]) == 6


def test_a_model_without_parameters_cannot_be_trained() -> None:
    with pytest.raises(UserError, match="there is nothing to train"):
        make_optimizer(spec(), nn.ReLU())


def ratios(**settings: Any) -> list[float]:
    return [lr_ratio(spec(epochs=4, **settings), step, step // 25, 100) for step in range(100)]


def test_learning_rates_rise_in_the_warm_up_and_follow_their_schedule() -> None:
    cosine = ratios(schedule="cosine", warmup_steps=10)
    assert cosine[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    linear = ratios(schedule="linear", lr_end_ratio=0.2)
    assert [linear[0], linear[50]] == pytest.approx([1.0, 0.6])
    steps = ratios(schedule="step", step_epochs=2, step_ratio=0.5)
    assert (steps[49], steps[50], steps[99]) == (1.0, 0.5, 0.5)
    assert ratios() == [1.0] * 100


def test_metrics_tell_the_learning_rate_of_each_step(tmp_path: Path) -> None:
    run(recipe(schedule="linear", lr=0.01, log_every_steps=1), tmp_path)
    rates = [line["lr"] for line in metrics(tmp_path) if "step" in line]
    assert rates == pytest.approx([0.01 * (1 - step / STEPS_COUNT) for step in range(STEPS_COUNT)])


def test_gradients_longer_than_the_limit_are_scaled_down_and_their_own_length_is_told(tmp_path: Path) -> None:
    def sgd(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), lr=1.0)

    settings = PLAIN | {"optimizer": "sgd", "lr": 1.0}
    run(recipe(**settings, clip_norm=0.1), tmp_path / "clipped")
    run(recipe(**settings), tmp_path / "free")
    assert same_bits(weights(tmp_path / "clipped"), one_step(sgd, clip_norm=0.1))
    assert same_bits(weights(tmp_path / "free"), one_step(sgd))
    norms = [metrics(tmp_path / name)[0]["gradient_norm"] for name in ("clipped", "free")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert norms[0] > 0.1


class WithoutNorm(Net):
    """No batch norm, no dropout: the gradient of a batch is the mean of its rows'."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 16), nn.ReLU())


def test_a_step_in_parts_is_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    whole, parts = (replace(recipe(optimizer="sgd", lr=0.1, accumulate=count), model=WithoutNorm) for count in (1, 3))
    run(whole, tmp_path / "whole")
    run(parts, tmp_path / "parts")
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert not same_bits(first, second), "parts were taken, and their sums rounded in another order"
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-6, rtol=1e-5)
    losses = [[line["train_loss"] for line in metrics(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_average_of_the_weights_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    run(recipe(), tmp_path / "plain")
    run(recipe(ema_decay=0.5), tmp_path / "averaged")
    run(recipe(ema_decay=1e-12), tmp_path / "last")
    plain, averaged, last = (weights(tmp_path / name) for name in ("plain", "averaged", "last"))
    assert plain.keys() == averaged.keys()
    assert not torch.equal(plain["head.weight"], averaged["head.weight"])
    torch.testing.assert_close(last["head.weight"], plain["head.weight"])
    assert torch.equal(plain["inner.1.running_mean"], averaged["inner.1.running_mean"])


def test_training_stops_when_nothing_is_gained_any_more(tmp_path: Path) -> None:
    lines: list[str] = []
    stuck = recipe(epochs=50, lr=1e-12, optimizer="sgd", patience_epochs=3, keep="best")
    checkpoint = run(replace(stuck, model=WithoutNorm), tmp_path / "stuck", lines)
    epochs = len(metrics(tmp_path / "stuck"))
    assert epochs < 50
    assert f"stopped after epoch {epochs}: the loss has not fallen since epoch {epochs - 3}" in lines
    assert checkpoint.kept_epoch == epochs - 3
    run(recipe(epochs=5, patience_epochs=3, lr=1e-2), tmp_path / "falling")
    assert len(metrics(tmp_path / "falling")) == 5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sixteen_bits_compute_and_thirty_two_are_kept(precision: str, tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()
    narrow = recipe(precision=precision)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.add(outputs.dtype)
        return nn.functional.cross_entropy(outputs.float(), targets)

    run(replace(narrow, loss=loss), tmp_path)
    assert getattr(torch, precision) in seen
    assert {tensor.dtype for name, tensor in weights(tmp_path).items() if "num_batches" not in name} == {torch.float32}
    assert ("skipped_steps" in metrics(tmp_path)[0]) == (precision == "float16")
    assert metrics(tmp_path)[-1]["train_loss"] < metrics(tmp_path)[0]["train_loss"]


def test_tf32_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tf32: cpu does not multiply so"):
        run(recipe(precision="tf32"), tmp_path)
    assert HOST.float32_products() == "ieee"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"accumulate": 0}, "train.accumulate must be >= 1, got 0"),
        ({"clip_norm": 0.0}, "train.clip_norm must be > 0, got 0.0"),
        ({"ema_decay": 1.0}, "train.ema_decay must lie between 0 and 1, got 1.0"),
        ({"save_every_steps": 0}, "train.save_every_steps must be >= 1, got 0"),
        ({"lr": float("nan")}, "train.lr must be > 0, got nan"),
    ],
)
def test_bounds_are_said_with_the_value(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**bad)


def test_the_last_weights_lie_beside_the_best(tmp_path: Path) -> None:
    falls_and_rises: dict[str, Any] = {"optimizer": "sgd", "lr": 1.0, "epochs": 12}
    kept = run(recipe(**falls_and_rises, keep="best"), tmp_path / "best")
    run(recipe(**falls_and_rises), tmp_path / "last")
    assert kept.kept_epoch < 12
    assert [file.path for file in kept.files] == ["last.safetensors", "metrics.jsonl", "weights.safetensors"]
    last = load_file(tmp_path / "best" / "last.safetensors")
    assert same_bits(last, weights(tmp_path / "last"))
    assert not same_bits(last, weights(tmp_path / "best"))
    assert not (tmp_path / "last" / "last.safetensors").exists()
