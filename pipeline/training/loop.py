"""Training: a recipe to a checkpoint, bit for bit the same each time, and after any interruption.

One seed governs everything. The order of rows is drawn from the seed and the epoch, so it needs no state of its own; at
the end of an epoch weights, optimizer and random generators are saved, without pickle, at most every
``save_every_s``. A run that is interrupted goes on from there and ends with the same bits.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from bench.run_folder import CHECKPOINT_RECORD, METRICS, WEIGHTS
from export.device import Device
from export.errors import RecordError, UserError
from export.files import digest_files, write_atomically
from export.record import observed, write
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.determinism import seed_everything, without_determinism_is_said
from pipeline.training.evaluate import call, data_sha256, final_metrics, predict
from pipeline.training.resume import Counters, forget_state, load_state, save_state, save_tensors
from pipeline.training.weights import take_up

if TYPE_CHECKING:
    from pipeline.data import Data, Split
    from pipeline.recipe import Recipe
    from pipeline.training.spec import TrainSpec


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What training tells while it runs."""

    say: Callable[[str], None]
    """One line of text."""
    advance: Callable[[int, int], None]
    """Epochs done, and of how many."""


def train(recipe: Recipe, where: Device, folder: Path, key: str, progress: Progress) -> Checkpoint:
    """Train into ``folder``, going on from a state that lies there; the caller publishes the folder when it is whole.

    Raises:
        UserError: the loss is not finite; an operator has no deterministic algorithm, and one was asked for.
        KeyboardInterrupt: after the state was saved, at the end of the epoch.
    """
    started = time.monotonic()
    seed_everything(recipe.seed, where, deterministic=recipe.train is not None and recipe.train.deterministic)
    data = recipe.data() if recipe.data else None
    torch.manual_seed(recipe.seed)
    module = recipe.model().to(where.torch_name)
    spec = recipe.train
    if spec is None or data is None or recipe.loss is None:
        save_tensors(folder / WEIGHTS, module.state_dict())
        write_atomically(folder / METRICS, b"")
        last_loss, kept_epoch = None, 0
    else:
        with without_determinism_is_said():
            last_loss, kept_epoch = _Training(recipe, spec, data, module, where, folder).run(progress)
        take_up(module, load_file(folder / WEIGHTS))
    with without_determinism_is_said():
        metrics = final_metrics(recipe, data, module, where)
    if last_loss is not None:
        metrics["train_loss"] = last_loss
        _say_results(metrics, progress)
    checkpoint = Checkpoint(
        key=key,
        recipe=recipe.name,
        files=digest_files(folder, [folder / WEIGHTS, folder / METRICS]),
        data_sha256=data_sha256(data),
        epochs_count=spec.epochs if spec else 0,
        kept_epoch=kept_epoch,
        metrics=metrics,
        observed=observed(time.monotonic() - started),
    )
    write(folder / CHECKPOINT_RECORD, checkpoint)
    forget_state(folder)
    return checkpoint


class _Training:
    """The loop and its state."""

    def __init__(
        self, recipe: Recipe, spec: TrainSpec, data: Data, module: nn.Module, where: Device, folder: Path
    ) -> None:
        assert recipe.loss is not None
        self._recipe, self._spec, self._module, self._device, self._folder = recipe, spec, module, where, folder
        self._loss = recipe.loss
        self._train = data.train.on(where)
        self._validation = data.validation.on(where) if data.validation else None
        self._optimizer = recipe.optimizer(module) if recipe.optimizer else _optimizer(spec, module)
        self._base_lrs = [group["lr"] for group in self._optimizer.param_groups]
        self._now = Counters()
        self._best: dict[str, torch.Tensor] = {}
        self._saved_at = time.monotonic()

    def run(self, progress: Progress) -> tuple[float, int]:
        """Train to the end; the last epoch's loss, and the epoch whose weights were kept."""
        self._resume(progress)
        with _deferred_interrupt() as interrupted:
            while self._now.epoch < self._spec.epochs:
                self._one_epoch()
                progress.advance(self._now.epoch, self._spec.epochs)
                if self._now.epoch % self._spec.print_every_epochs == 0:
                    progress.say(f"Epoch [{self._now.epoch}/{self._spec.epochs}], Loss: {self._now.train_loss:.4f}")
                last = self._now.epoch == self._spec.epochs
                if interrupted() or last or time.monotonic() - self._saved_at >= self._spec.save_every_s:
                    save_state(self._folder, self._device, self._module, self._optimizer, self._best, self._now)
                    self._saved_at = time.monotonic()
                if interrupted() and not last:
                    raise KeyboardInterrupt
        save_tensors(self._folder / WEIGHTS, self._best if self._spec.keep == "best" else self._module.state_dict())
        write_atomically(self._folder / METRICS, "".join(line + "\n" for line in self._now.lines).encode())
        return self._now.train_loss, self._now.kept_epoch

    def _resume(self, progress: Progress) -> None:
        """Go on from a saved state, if one lies there; a damaged one is worth no more than none."""
        try:
            state = load_state(self._folder, self._device, self._module, self._optimizer)
        except RecordError as error:
            progress.say(f"the saved state is damaged, training begins anew: {error}")
            forget_state(self._folder)
            return
        if state is not None:
            self._now, self._best = state
            progress.say(f"resumed after epoch {self._now.epoch} of {self._spec.epochs}")

    def _one_epoch(self) -> None:
        self._module.train()
        for group, base in zip(self._optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base * _schedule(self._spec, self._now.epoch)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._device.torch_name)  # read once: a read waits
        rows_sum = 0
        for batch in self._batches():
            outputs = call(self._recipe, self._module, batch)
            loss = self._loss(outputs, batch.targets)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            loss_sum += loss.detach().double().reshape(()) * batch.rows_count
            rows_sum += batch.rows_count
        self._now.epoch += 1
        # one batch: its own loss, not a product divided again, which may differ in the last bit
        self._now.train_loss = loss.item() if rows_sum == batch.rows_count else loss_sum.item() / rows_sum
        if not np.isfinite(self._now.train_loss):
            raise UserError(
                f"the training loss is {self._now.train_loss} after epoch {self._now.epoch}: "
                f"lower --train.lr ({self._spec.lr:g}), or check the data"
            )
        self._note_epoch()

    def _note_epoch(self) -> None:
        """Metrics of the epoch; keep its weights if it is the best so far, or if the last are wanted."""
        line: dict[str, float] = {"epoch": self._now.epoch, "train_loss": self._now.train_loss}
        if self._validation:
            outputs = predict(self._recipe, self._module, self._validation)
            line["validation_loss"] = float(self._loss(outputs, self._validation.targets))
            line |= {
                f"validation_{name}": float(metric(outputs, self._validation.targets))
                for name, metric in self._recipe.metrics.items()
            }
        self._now.lines.append(
            json.dumps({name: value if np.isfinite(value) else None for name, value in line.items()})
        )
        watched = line.get("validation_loss", self._now.train_loss)
        if self._spec.keep == "last":
            self._now.kept_epoch = self._now.epoch
        elif self._now.best_loss is None or watched < self._now.best_loss:
            self._now.best_loss, self._now.kept_epoch = watched, self._now.epoch
            self._best = {name: tensor.detach().clone() for name, tensor in self._module.state_dict().items()}

    def _batches(self) -> Iterator[Split]:
        rows = self._spec.batch_rows
        if rows is None:
            yield self._train
            return
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + self._now.epoch)
        order = torch.randperm(self._train.rows_count, generator=generator).to(self._device.torch_name)
        for start in range(0, len(order), rows):
            yield self._train.take(order[start : start + rows])


def _optimizer(spec: TrainSpec, module: nn.Module) -> torch.optim.Optimizer:
    parameters = module.parameters()
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    kind = torch.optim.AdamW if spec.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=spec.lr, weight_decay=spec.weight_decay)


def _schedule(spec: TrainSpec, epoch: int) -> float:
    return 0.5 * (1 + float(np.cos(np.pi * epoch / spec.epochs))) if spec.schedule == "cosine" else 1.0


def _say_results(metrics: dict[str, float], progress: Progress) -> None:
    """Accuracy and final loss in the words of the seed document; the split is named where there are several."""
    accuracies = {
        name.removesuffix("_accuracy"): value for name, value in metrics.items() if name.endswith("_accuracy")
    }
    for split, value in accuracies.items():
        progress.say(f"Accuracy: {value * 100:.2f}%" + (f" ({split})" if len(accuracies) > 1 else ""))
    progress.say(f"Final Loss: {metrics['train_loss']}")


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits for the end of the epoch, so that the state which is saved is whole; a second one does not wait."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
