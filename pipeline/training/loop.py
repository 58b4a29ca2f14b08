"""The loop: epochs of steps, what is looked at after each, and what is kept.

Between two steps everything that the next one depends on can be saved, as often as the recipe asks; the order of rows
and the learning rate are functions of the step, and need no saving. An interrupted training ends with the same bits.
"""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from bench.run_folder import LAST, WEIGHTS
from export.device import Device
from pipeline.data import Split
from pipeline.process.interrupt import deferred_interrupt
from pipeline.training.batches.batch import Batch, Reading
from pipeline.training.batches.kinds import batches
from pipeline.training.determinism import RandomState, seed_generators
from pipeline.training.distributed import ALONE, World
from pipeline.training.evaluate import validation_metrics
from pipeline.training.optimizer import lr_ratio, make_optimizer
from pipeline.training.sharding import gathered, reshard, shard
from pipeline.training.state.parts import try_in_parts
from pipeline.training.state.resume import save_state, usable_state
from pipeline.training.state.training import Counters, Training
from pipeline.training.steps.fast import FastStep
from pipeline.training.steps.step import Step, averaged
from pipeline.training.watch.faults import Place, named_faults, named_losses, nonfinite
from pipeline.training.watch.progress import Progress
from pipeline.training.watch.watcher import Watcher, unwatched
from pipeline.training.weights import save_tensors

if TYPE_CHECKING:
    from pipeline.data import Data
    from pipeline.recipe import Recipe
    from pipeline.training.spec import TrainSpec


_ASK_EVERY_STEPS = 16
"""How often several processes agree on whether it is time to save."""


class Loop:
    """One training and its state."""

    def __init__(
        self, recipe: Recipe, spec: TrainSpec, data: Data, module: nn.Module, where: Device, world: World = ALONE
    ) -> None:
        self._recipe, self._spec, self._device, self._world = recipe, spec, where, world
        reading = Reading(inputs=recipe.signature.inputs, spec=spec, seed=recipe.seed, where=where, world=world)
        self._batches = batches(data.train, reading)
        self._validation = data.validation.on(where) if isinstance(data.validation, Split) else None
        average = averaged(spec, module)
        if spec.sharded:
            for each in [module] if average is None else [module, average.module]:
                shard(each, where, world)
        optimizer = recipe.optimizer(module) if recipe.optimizer else make_optimizer(spec, module, where)
        try_in_parts(optimizer)
        self._training = Training(module=module, optimizer=optimizer, average=average)
        if world.rank:
            seed_generators(recipe.seed, world.rank)  # each draws its own dropout
        self._step = (FastStep if spec.fast else Step)(recipe, spec, self._training, where, world)
        self._base_lrs = [group["lr"] for group in optimizer.param_groups]
        self._unread: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        """Loss, gradient norm and rows of the steps whose figures the host has not read yet."""
        self._loss_now = self._norm_now = float("nan")
        self._batch: Batch | None = None
        """The one that is under way."""

    def run(self, folder: Path, key: str, progress: Progress) -> tuple[float, int]:
        """Train to the end; the last epoch's loss, and the epoch whose weights were kept.

        Raises:
            UserError: loss or gradients are not finite, the data fails, memory does not suffice.
            KeyboardInterrupt: after the state was saved, at the end of a step.
        """
        self._folder, self._key, self._progress = folder, key, progress
        self._watcher = self._resumed()
        self._watch = self._watcher.stopwatch
        self._saved_step, self._saved_s = self._now.step, time.monotonic()
        self._training.module.train()
        with (
            contextlib.closing(self._watcher),
            named_losses(self._world, self._here),
            deferred_interrupt() as self._interrupted,
        ):
            while self._now.epoch < self._spec.epochs and not self._is_over():
                self._one_epoch()
            self._watcher.note_speed(self._now.step)
            self._save_if_due()  # what a kill from here on may cost is no more than before
            self._save_weights()
        return self._now.train_loss, self._now.kept_epoch

    def _save_weights(self) -> None:
        """What is kept, whole; beside the best weights the last."""
        last = self._evaluated.state_dict()
        named = {WEIGHTS: self._training.best or last} | ({LAST: last} if self._spec.keep == "best" else {})
        for name, tensors in named.items():
            whole = gathered(tensors, self._world)
            if self._world.writes:
                save_tensors(self._folder / name, whole)

    @property
    def _now(self) -> Counters:
        return self._training.counters

    @property
    def _evaluated(self) -> nn.Module:
        """What is validated and kept: the module, or the average of its weights."""
        average = self._training.average
        return self._training.module if average is None else average.module

    def _resumed(self) -> Watcher:
        """Go on from a saved state, if the first process can use one."""
        state = usable_state(self._folder, self._key, self._world, self._progress.say)
        if state is not None:
            if remark := state.restore(self._device, self._training, self._world):
                self._progress.say(remark)
            within = f", at step {self._now.epoch_step} of the next" if self._now.epoch_step else ""
            self._progress.say(f"resumed after epoch {self._now.epoch} of {self._spec.epochs}{within}")
        if not self._world.writes:
            return unwatched(self._spec, self._device)
        return Watcher(self._spec, self._device, self._folder, self._progress, state)

    def _is_over(self) -> bool:
        """Whether nothing was gained for too long."""
        epoch, stale, patience = self._now.epoch, self._now.stale_epochs, self._spec.patience_epochs
        if is_over := patience is not None and stale >= patience:
            self._progress.say(f"stopped after epoch {epoch}: the loss has not fallen since epoch {epoch - stale}")
        return is_over

    def _one_epoch(self) -> None:
        read = self._batches.epoch(self._now.epoch, self._now.epoch_step)
        with named_faults(self._here):
            while self._now.epoch_step != self._spec.steps_per_epoch:
                self._watch.begin_step()
                if (batch := next(read, None)) is None:
                    break
                self._watch.lap("data")
                self._batch = batch
                self._save_if_due()
                self._one_step(batch)
                self._watcher.step(self._now, self._batches.steps_count, self._loss_now)
            self._batch = None
        self._end_epoch()

    def _one_step(self, batch: Batch) -> None:
        spec, now = self._spec, self._now
        self._set_lr()
        loss = self._step.gradients(batch, self._watch)
        self._unread.append((self._world.mean(loss), self._step.gradient_norm(), batch.rows_count))
        logs = spec.log_every_steps is not None and (now.step + 1) % spec.log_every_steps == 0
        if len(self._unread) >= spec.check_every_steps or logs:
            self._read(batch)
        self._step.update()
        self._watch.lap("optimizer")
        self._watch.count(batch.rows_count)
        now.step += 1
        now.epoch_step += 1
        if logs:
            figures = {"step": now.step, "epoch": now.epoch + 1, "loss": self._loss_now}
            self._watcher.note(now.step, figures | {"lr": self._lr, "gradient_norm": self._norm_now})

    def _read(self, batch: Batch | None = None) -> None:
        """Take the figures of the last steps from the device; ``batch`` is the last one's, before its update.

        Raises:
            UserError: one is not finite.
        """
        for number, (loss, norm, rows_count) in enumerate(self._unread, 1 - len(self._unread)):
            self._loss_now, self._norm_now = loss.item(), norm.item()
            if not math.isfinite(self._loss_now) or not (math.isfinite(self._norm_now) or self._training.scaler):
                place = self._place(batch if number == 0 else None, self._now.step + number + (batch is not None))
                raise nonfinite(place, self._training.module, self._step, self._loss_now, self._norm_now)
            self._now.skipped_steps += not math.isfinite(self._norm_now)
            self._now.epoch_loss += self._loss_now * rows_count
            self._now.epoch_rows += rows_count
        self._unread.clear()

    def _place(self, batch: Batch | None, step: int) -> Place:
        return Place(self._now.epoch + 1, step, batch, spec=self._spec, saved_step=self._saved_step)

    def _here(self) -> Place:
        return self._place(self._batch, self._now.step + 1)

    def _set_lr(self) -> None:
        ratio = 1.0
        if self._spec.moves_lr:
            of_epoch = self._batches.steps_count
            steps_count = None if of_epoch is None else of_epoch * self._spec.epochs
            ratio = lr_ratio(self._spec, self._now.step, self._now.epoch, steps_count)
            for group, base in zip(self._training.optimizer.param_groups, self._base_lrs, strict=True):
                group["lr"] = base * ratio
        self._lr = float(self._base_lrs[0]) * ratio

    def _end_epoch(self) -> None:
        """Figures of the epoch; keep its weights if it is the best so far, or if the last are wanted."""
        self._read()
        now = self._now
        # one batch: its own loss, not a product divided again, which may differ in the last bit
        now.train_loss = self._loss_now if now.epoch_step == 1 else now.epoch_loss / now.epoch_rows
        now.epoch, now.epoch_step, now.epoch_loss, now.epoch_rows = now.epoch + 1, 0, 0.0, 0
        line = {"epoch": now.epoch, "train_loss": now.train_loss, "lr": self._lr, "gradient_norm": self._norm_now}
        line |= {"skipped_steps": now.skipped_steps} if self._training.scaler else {}
        self._world.share_buffers(self._evaluated)
        line = self._world.first(line | validation_metrics(self._recipe, self._evaluated, self._validation))
        if self._spec.sharded:
            reshard(self._evaluated)
        self._watcher.note(now.step, line)
        watched = line.get("validation_loss", now.train_loss)
        is_best = now.best_loss is None or watched < now.best_loss
        now.stale_epochs = 0 if is_best else now.stale_epochs + 1
        now.best_loss = watched if is_best else now.best_loss
        if is_best or self._spec.keep == "last":
            now.kept_epoch = now.epoch
        if is_best and self._spec.keep == "best":
            state = self._evaluated.state_dict()
            self._training.best = {name: tensor.detach().clone() for name, tensor in state.items()}
        self._watcher.show(now.epoch, now.train_loss, at_once=now.epoch == self._spec.epochs)
        if now.epoch % self._spec.print_every_epochs == 0:
            self._progress.say(f"Epoch [{now.epoch}/{self._spec.epochs}], Loss: {now.train_loss:.4f}")

    def _save_if_due(self) -> None:
        spec = self._spec
        steps_count, seconds = self._now.step - self._saved_step, time.monotonic() - self._saved_s
        by_steps = spec.save_every_steps is not None and steps_count >= spec.save_every_steps
        interrupted, by_time = self._interrupted(), seconds >= spec.save_every_s
        if self._world.size > 1:  # clocks and signals differ, and to ask costs time
            asks = self._now.epoch_step % _ASK_EVERY_STEPS == 0
            interrupted, by_time = self._world.first((interrupted, by_time)) if asks else (False, False)
        if interrupted or by_steps or by_time:
            self._save()
        if interrupted:
            raise KeyboardInterrupt

    def _save(self) -> None:
        """What the next step depends on; nothing that is not finite is ever saved, since it was read before."""
        if self._now.step > self._saved_step:
            self._read()
            generators = self._world.all((RandomState.now(), self._device.random_state()))
            position = self._watcher.position()
            save_state(self._folder, self._key, self._training, position, generators, self._world)
            self._saved_step = self._now.step
        self._saved_s = time.monotonic()
