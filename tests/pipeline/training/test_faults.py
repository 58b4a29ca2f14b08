"""What can go wrong in a training, and that its message names the step, the rows and what to do."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from export.errors import UserError
from pipeline.recipe import Data, Recipe, Split
from pipeline.training.batches.batch import reading
from tests.pipeline.training.small import (
    Net,
    Stream,
    begin,
    everything,
    metrics,
    recipe,
    rows,
    run,
    same_bits,
    weights,
)  # fmt: skip


def with_rows(wanted: Recipe, train: Any) -> Recipe:
    return replace(wanted, data=lambda: Data(train=train))


def spoilt(value: float, row: int = 17) -> Split:
    split = rows()
    split.inputs["x"][row, 2] = value
    return split


def test_a_row_that_is_not_finite_is_named_and_the_last_good_state_is_kept(tmp_path: Path) -> None:
    clean = recipe(save_every_steps=1)
    with pytest.raises(UserError) as raised:
        run(with_rows(clean, spoilt(float("nan"))), tmp_path)
    text = str(raised.value)
    assert "the training loss is nan at step 4 (epoch 1), row 17: the input 'x' is not finite." in text
    assert "Lower --train.lr (0.001)" in text
    assert text.endswith("The state after step 3 is kept.")
    assert (tmp_path / "3-state.safetensors").exists()
    run(with_rows(clean, rows()), tmp_path)  # the same key, mended data: it goes on from there
    assert len(metrics(tmp_path)) == 3


class Overflowing(Net):
    """Its first layer's result is infinite for rows whose first value is large."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.inner(torch.exp(x)))
        return result


def test_the_first_module_that_is_not_finite_is_named_with_its_rows(tmp_path: Path) -> None:
    wild = replace(with_rows(recipe(), spoilt(500.0)), model=Overflowing)
    with pytest.raises(UserError, match=r"row 17: the first module whose result is not finite is inner\.0 \(Linear\)"):
        run(wild, tmp_path)


class Rooted(Net):
    """Its result is finite and its gradient is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.sqrt(self.head.weight.sum() * 0)


def test_gradients_that_are_not_finite_stop_before_the_weights_are_spoilt(tmp_path: Path) -> None:
    message = r"the norm of the gradients is nan at step 1 .* the first gradient that is not finite is that of 'head"
    with pytest.raises(UserError, match=message):
        run(replace(recipe(), model=Rooted), tmp_path)


def test_a_loss_that_alone_is_not_finite_is_said_to_be(tmp_path: Path) -> None:
    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets) * float("inf")

    with pytest.raises(UserError, match="every module's result is finite: it is the loss that is not"):
        run(replace(recipe(), loss=broken), tmp_path)


def test_figures_that_are_read_late_say_how_to_name_the_rows(tmp_path: Path) -> None:
    late = with_rows(recipe(check_every_steps=5, save_every_steps=100), spoilt(float("nan")))
    with pytest.raises(UserError, match=r"at step 4 .epoch 1.; --train\.check-every-steps 1 names the rows"):
        run(late, tmp_path)


def test_reading_figures_late_changes_nothing(tmp_path: Path) -> None:
    run(recipe(), tmp_path / "each")
    run(recipe(check_every_steps=5), tmp_path / "late")
    assert same_bits(weights(tmp_path / "each"), weights(tmp_path / "late"))
    assert (tmp_path / "each/metrics.jsonl").read_bytes() == (tmp_path / "late/metrics.jsonl").read_bytes()


def test_steps_that_float16_leaves_out_are_counted_and_are_no_failure(tmp_path: Path) -> None:
    """A loss so large that its scaled gradients overflow until the scale has come down."""

    def large(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets) * 4096

    run(replace(recipe(precision="float16"), loss=large), tmp_path)
    skipped = [line["skipped_steps"] for line in metrics(tmp_path)]
    assert skipped[-1] > 0
    assert skipped == sorted(skipped)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (lambda: rows(count=0), "there are no training rows"),
        (lambda: DataLoader(Stream(), batch_size=None), "the input 'x' must be float32 .* the data has float32 .6,."),
        (lambda: Split(inputs={"x": torch.ones(4, 5)}, targets=torch.ones(4)), r"'x' must be .*\(4, 5\)"),
        (lambda: Split(inputs={"x": torch.ones(4, 6).double()}, targets=torch.ones(4)), "the data has float64"),
        (lambda: Split(inputs={"x": torch.ones(4, 6)}, targets=torch.ones(3)), "4 rows of 'x' and 3 targets"),
        (lambda: [torch.ones(6)] * 3, r"batch 1 of epoch 1: a batch of the data must be \(inputs, targets\)"),
        (lambda: [({"y": torch.ones(6)}, 0)] * 3, "must hold tensors for x and the targets; got y .torch.float32"),
    ],
    ids=["empty", "unbatched", "shape", "dtype", "targets", "alone", "names"],
)
def test_data_that_is_not_what_the_signature_says_is_named(
    train: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(with_rows(recipe(batch_rows=None), train()), tmp_path)


class Failing(Dataset[Any]):
    """Raises, or ends its process, at one row."""

    def __init__(self, signal_number: int | None = None) -> None:
        self._signal = signal_number

    def __len__(self) -> int:
        return 60

    def __getitem__(self, number: int) -> Any:
        if number == 17:
            if self._signal:
                signal.raise_signal(self._signal)
            raise ValueError("row 17 cannot be decoded")
        return torch.ones(6), 0


def test_a_data_set_that_raises_is_named_with_its_batch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the data failed at batch 4 of epoch 1: ValueError: row 17 cannot be decoded"):
        run(with_rows(recipe(), Failing()), tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), EOFError()])
def test_the_end_of_a_worker_says_what_to_try(error: Exception) -> None:
    with pytest.raises(UserError, match=r"ended at batch 3 of epoch 2: .*fewer --train\.workers-count"), reading(1, 2):
        raise error


def dying() -> Recipe:
    return with_rows(recipe(workers_count=1), Failing(signal.SIGKILL))


@pytest.mark.slow
def test_a_worker_that_dies_is_named(tmp_path: Path) -> None:
    """In a process of its own: torch raises from a signal handler, wherever the process is, or notices after 5 s."""
    process = begin(dying, (), tmp_path / "run")
    process.join()
    assert process.exitcode == 2
    assert "error: a process that reads the data ended" in (tmp_path / "run.log").read_text()


def test_a_label_out_of_range_is_named_with_its_row(tmp_path: Path) -> None:
    split = rows()
    split.targets[23] = 7
    with pytest.raises(UserError, match=r"out of range at step \d .epoch 1., row 23: Target 7 is out of bounds"):
        run(with_rows(recipe(), split), tmp_path)


class Huge(Net):
    """Asks for more memory than any machine has, once it sees more than two rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > 2:
            torch.empty(1 << 50)
        return super().forward(x)


def test_too_little_memory_says_what_to_try_and_that_helps(tmp_path: Path) -> None:
    message = r"out of memory at step 1 .epoch 1., with a batch of 8 rows \(x \(8, 6\)\).*--train.accumulate 2"
    with pytest.raises(UserError, match=message):
        run(replace(recipe(), model=Huge), tmp_path)
    run(replace(recipe(accumulate=4, steps_per_epoch=6), model=Huge), tmp_path)


def limited(form: str) -> Recipe:
    """Lets no file grow any more from its eighth step on: as a full disk would."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    wanted, calls = everything(form), iter(range(7 * 2))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert wanted.loss is not None
        if next(calls, None) is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return wanted.loss(outputs, targets)

    return replace(wanted, loss=loss)


def test_a_full_disk_ends_the_training_and_room_lets_it_go_on(tmp_path: Path) -> None:
    process = begin(limited, ("memory",), tmp_path / "run")
    process.join()
    assert process.exitcode == 1
    assert {path.name for path in (tmp_path / "run").glob("*state.*")} == {"state.json", "6-state.safetensors"}
    lines: list[str] = []
    run(everything("memory"), tmp_path / "run", lines)
    assert lines[0] == "resumed after epoch 0 of 3, at step 6 of the next"
    run(everything("memory"), tmp_path / "whole")
    assert same_bits(weights(tmp_path / "run"), weights(tmp_path / "whole"))
