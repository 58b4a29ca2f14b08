"""Steps that are taken at once: what they come to, held to plain ones, and what cannot be taken so.

Most tests run the operators of a traced step as they are: Inductor needs seconds for the smallest; slow ones ask it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from export.device import HOST, Device
from export.errors import UserError
from export.gpus.graph import CALLS_BEFORE
from pipeline.recipe import Data, Recipe, TrainSpec
from pipeline.recipes import digits, seed
from pipeline.training.batches.batch import Batch
from pipeline.training.distributed import ALONE, World
from pipeline.training.optimizer import make_optimizer
from pipeline.training.state.training import Training
from pipeline.training.steps import traced
from pipeline.training.steps.fast import FastStep
from pipeline.training.steps.step import Step
from pipeline.training.watch.stopwatch import Stopwatch
from tests.pipeline.training.small import Net, begin, kill_at, metrics, recipe, rows, run, same_bits, weights

R = TypeVar("R")
EVERYTHING: dict[str, Any] = {
    "optimizer": "adamw", "decay": "matrices", "weight_decay": 0.01, "clip_norm": 1.0, "accumulate": 2,
    "schedule": "cosine", "warmup_steps": 5, "ema_decay": 0.9, "keep": "best", "log_every_steps": 1, "batch_rows": 10,
}  # fmt: skip
"""All that has state, and batches of one shape."""


class WithoutBias(Net):
    """A bias before a batch norm has no gradient but rounding, which Adam makes steps of."""

    def __init__(self) -> None:
        super().__init__()
        self.inner[0] = nn.Linear(6, 16, bias=False)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "compiled", lambda graph, tensors: graph)


def fast(wanted: Recipe) -> Recipe:
    assert isinstance(wanted.train, TrainSpec)
    return replace(wanted, train=replace(wanted.train, fast=True))


def both(wanted: Recipe, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights of a plain training and of a fast one."""
    run(wanted, folder / "plain")
    run(fast(wanted), folder / "fast")
    return weights(folder / "plain"), weights(folder / "fast")


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.9, "weight_decay": 0.1}, {"accumulate": 3, "clip_norm": 0.1}, {"precision": "bfloat16"}],
    ids=str,
)
def test_a_traced_step_of_sgd_gives_the_bits_of_a_plain_one(settings: dict[str, Any], tmp_path: Path) -> None:
    plain, at_once = both(recipe(optimizer="sgd", lr=0.1, batch_rows=10, **settings), tmp_path)
    assert same_bits(plain, at_once)
    assert (tmp_path / "plain" / "metrics.jsonl").read_bytes() == (tmp_path / "fast" / "metrics.jsonl").read_bytes()


@pytest.mark.usefixtures("uncompiled")
def test_adam_its_schedule_and_the_average_come_to_the_same_up_to_rounding(tmp_path: Path) -> None:
    plain, at_once = both(replace(recipe(**EVERYTHING), model=WithoutBias), tmp_path)
    for name, tensor in plain.items():
        torch.testing.assert_close(at_once[name], tensor, atol=1e-6, rtol=1e-5)
    for line, other in zip(metrics(tmp_path / "plain"), metrics(tmp_path / "fast"), strict=True):
        assert other == pytest.approx(line, rel=1e-5)


class WithAnAverage(Net):
    """Puts a new tensor in the place of a buffer at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.average: torch.Tensor
        self.register_buffer("average", torch.zeros(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.average = self.next(x)
        return super().forward(x) + self.average.sum()

    def next(self, x: torch.Tensor) -> torch.Tensor:
        return 0.9 * self.average + 0.1 * x.mean(0).detach()


class InPlace(WithAnAverage):
    """The same, written into the buffer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.average.copy_(self.next(x))
        return Net.forward(self, x) + self.average.sum()


@pytest.mark.usefixtures("uncompiled")
def test_a_buffer_that_forward_replaces_is_refused_and_one_that_it_writes_into_goes_on(tmp_path: Path) -> None:
    wanted = recipe(optimizer="sgd", lr=0.1, batch_rows=10)
    with pytest.raises(UserError, match="puts another tensor in the place of the buffer average"):
        run(fast(replace(wanted, model=WithAnAverage)), tmp_path / "replaced")
    plain, at_once = both(replace(wanted, model=InPlace), tmp_path)
    assert plain["average"].abs().sum() > 0
    assert same_bits(plain, at_once)


class CutOffError(Exception):
    pass


@pytest.mark.usefixtures("uncompiled")
def test_a_fast_training_goes_on_from_any_step_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = fast(recipe(**EVERYTHING, save_every_steps=1))
    run(wanted, tmp_path / "whole")
    for last in (1, 12):
        calls = iter(range(last))

        def cut_off(graph: Callable[..., Any], tensors: object, calls: Any = calls) -> Callable[..., Any]:
            def call(*given: torch.Tensor) -> Any:
                if next(calls, None) is None:
                    raise CutOffError
                return graph(*given)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(traced, "compiled", cut_off)
            with pytest.raises(CutOffError):
                run(wanted, tmp_path / "cut")
    lines: list[str] = []
    run(wanted, tmp_path / "cut", lines)
    assert lines[0].startswith("resumed after epoch 2 of 3")
    assert same_bits(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.usefixtures("uncompiled")
def test_a_row_that_is_not_finite_is_named_as_by_a_plain_step(tmp_path: Path) -> None:
    split = rows()
    split.inputs["x"][17, 2] = float("nan")
    wanted = fast(replace(recipe(), data=lambda: Data(train=split)))
    with pytest.raises(UserError, match=r"the training loss is nan at step 4 .*, row 17: the input 'x' is not finite"):
        run(wanted, tmp_path)


class Rooted(Net):
    """Its result is finite; its gradient is not, of the batch with the row whose first value is the largest."""

    largest = float(rows().inputs["x"][:, 0].max())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        edge = torch.where(x[:, 0].max() == self.largest, self.head.weight.sum() * 0, 1.0)
        return super().forward(x) + torch.sqrt(edge)


@pytest.mark.usefixtures("uncompiled")
def test_a_gradient_that_is_not_finite_is_named_and_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    wanted = fast(replace(recipe(optimizer="adamw"), model=Rooted))
    with pytest.raises(UserError, match=r"gradients is nan at step [2-8] .* not finite is that of 'head\.weight'"):
        run(wanted, tmp_path)


class Choosing(Net):
    """Asks for a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def drawing(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets) * (1 + np.random.rand())


class Home(torch.optim.SGD):
    """An optimizer of the user's own."""


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (replace(recipe(), model=Choosing), "this one asks for a tensor's value.*leave --train.fast out"),
        (replace(recipe(), loss=drawing), "give for ever what NumPy drew once"),
        (recipe(optimizer="adafactor"), "that have a differentiable form.*; Adafactor is none"),
        (replace(recipe(), optimizer=lambda module: Home(module.parameters(), lr=0.1)), "Home is none"),
        (recipe(optimizer="rmsprop", schedule="linear"), "this one asks for a tensor's value"),
    ],
    ids=["value", "numpy", "adafactor", "own", "rmsprop"],
)
def test_what_cannot_be_one_function_is_said_before_the_second_step(
    wanted: Recipe, message: str, tmp_path: Path
) -> None:
    run(wanted, tmp_path / "plain")
    with pytest.raises(UserError, match=message):
        run(fast(wanted), tmp_path / "fast")


@pytest.mark.usefixtures("uncompiled")
def test_batches_of_too_many_shapes_are_refused_and_of_some_are_not(tmp_path: Path) -> None:
    run(fast(recipe(epochs=1)), tmp_path / "two")  # the last batch of an epoch has fewer rows
    step, _ = of(HOST, "sgd")
    for count in range(2, 11):
        take(step, count)
    with pytest.raises(UserError, match="more than 8"):
        take(step, 11)


def test_several_processes_are_refused() -> None:
    with pytest.raises(UserError, match="a process alone: start it without torchrun"):
        FastStep(recipe(), TrainSpec(fast=True), of(HOST, "sgd")[1], HOST, World(0, 2))


@pytest.mark.parametrize("other", [{"compile": True}, {"sharded": True}, {"precision": "float16"}])
def test_settings_that_contradict_it_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"train\.fast"):
        TrainSpec(fast=True, **other)


class Replaying(Device):
    """The CPU, as a device that records: what it replays, it does once more, and gives results in the same places."""

    asynchronous: ClassVar[bool] = True

    def captured(self, call: Callable[[], R]) -> Callable[[], R]:
        for _ in range(CALLS_BEFORE):
            kept: Any = call()

        def replay() -> R:
            for place, result in zip(kept, call(), strict=True):  # type: ignore[call-overload]
                place.copy_(result)
            return kept  # type: ignore[no-any-return]

        return replay

    def random_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def restore_random_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


def of(where: Device, optimizer: str, kind: Callable[..., Step] = FastStep, **more: Any) -> tuple[Step, Training]:
    """A step of the recipe ``small``, and what it trains."""
    torch.manual_seed(0)
    spec = TrainSpec(fast=True, optimizer=optimizer, lr=0.1, **more)
    module = Net().train()
    training = Training(module=module, optimizer=make_optimizer(spec, module, where))
    return kind(recipe(), spec, training, where, ALONE), training


def take(step: Step, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    split = rows(seed, count)
    loss = step.gradients(Batch(split=split, numbers=None, rows_count=count, share=1.0), Stopwatch(HOST))
    norm = step.gradient_norm()
    step.update()
    step._training.counters.step += 1
    return loss, norm


@pytest.mark.parametrize("more", [{}, {"momentum": 0.9, "schedule": "linear"}], ids=["plain", "momentum"])
def test_a_recorded_step_is_a_plain_one_and_recording_trains_nothing(more: dict[str, Any]) -> None:
    results = []
    for kind in (Step, FastStep):
        step, training = of(Replaying("replaying"), "sgd", kind, **more)
        torch.manual_seed(1)
        taken = []
        for number, count in enumerate((8, 8, 5, 8, 5)):
            training.optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
            if not more:
                training.optimizer.param_groups[0]["lr"] = 0.1
            taken.append(take(step, count, number))
        results.append((taken, {name: each.clone() for name, each in training.module.state_dict().items()}))
    (losses, plain), (others, recorded) = results
    assert torch.equal(torch.tensor(losses), torch.tensor(others))
    assert same_bits(plain, recorded)


def test_an_optimizer_that_no_graph_holds_is_refused_on_a_device_that_records() -> None:
    spec = TrainSpec(fast=True)
    module = Net()
    training = Training(module=module, optimizer=torch.optim.Adam(module.parameters()))
    with pytest.raises(UserError, match="capturable=True or fused=True: Adam was not"):
        FastStep(recipe(), spec, training, Replaying("replaying"), ALONE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted",
    [
        seed.recipe(),
        replace(recipe(**EVERYTHING), model=WithoutBias),
        recipe(optimizer="sgd", lr=0.1, momentum=0.9),
        replace(digits.recipe(), train=replace(digits.recipe().train, epochs=1, optimizer="sgd")),  # type: ignore[type-var]
    ],
    ids=["seed", "everything", "sgd", "digits"],
)
def test_a_compiled_step_comes_to_the_same_up_to_rounding(wanted: Recipe, tmp_path: Path) -> None:
    plain, at_once = both(wanted, tmp_path)
    for name, tensor in plain.items():
        torch.testing.assert_close(at_once[name], tensor, atol=2e-5, rtol=1e-4)
    run(fast(wanted), tmp_path / "again")
    assert same_bits(at_once, weights(tmp_path / "again"))


def long(form: str) -> Recipe:
    return fast(recipe(form, **EVERYTHING, epochs=400, save_every_steps=3))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["memory", "numbered"])
def test_a_compiled_training_that_is_killed_ends_with_the_same_bits(form: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run(long(form), tmp_path / "whole")
    for point in (5, 700, 1500, 2400):
        kill_at(begin(long, (form,), tmp_path / "killed"), tmp_path / "killed", point)
    process = begin(long, (form,), tmp_path / "killed")
    process.join()
    assert process.exitcode == 0
    assert same_bits(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_label_out_of_range_is_named_by_a_compiled_step_too_however_many_threads_there_are(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    step, _ = of(HOST, "sgd")
    many = 100_000
    for _ in range(3):
        take(step, many)
    split = rows(0, many)
    split.targets[77_777] = 7
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        step.gradients(Batch(split=split, numbers=None, rows_count=many, share=1.0), Stopwatch(HOST))
