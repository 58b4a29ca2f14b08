"""Training: a recipe to a checkpoint, bit for bit the same each time, and after any interruption.

One seed governs everything. The order of rows is drawn from the seed and the epoch, so it needs no state of its own; at
the end of an epoch weights, optimizer and random generators are saved, without pickle, at most every
``save_every_s``. A run that is interrupted goes on from there and ends with the same bits.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn

from export.errors import UserError
from export.record import FileDigest, Observed, Record, digest_files, observed, sha256, write, write_atomically

if TYPE_CHECKING:
    from pipeline.recipe import Data, Recipe, Split

WEIGHTS, METRICS, RECORD = "weights.safetensors", "metrics.jsonl", "checkpoint.json"
_STATE, _PROGRESS = "state.safetensors", "state.json"
_EVALUATION_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How to train."""

    epochs: int = 10
    """Passes over the training rows."""
    batch_rows: int | None = None
    """Rows per step, shuffled each epoch; None takes all rows at once, in their order."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    lr: float = 1e-3
    """Learning rate at the start."""
    momentum: float = 0.0
    """Of sgd."""
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate, per epoch; cosine ends at zero."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's weights to keep; best is the smallest validation loss."""
    print_every_epochs: int = 10
    save_every_s: float = 10.0
    """Least time between two saves of the state that an interrupted run resumes from."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"train.epochs must be >= 1, got {self.epochs}")
        if self.batch_rows is not None and self.batch_rows < 1:
            raise ValueError(f"train.batch_rows must be >= 1, got {self.batch_rows}")
        if self.lr <= 0:
            raise ValueError(f"train.lr must be > 0, got {self.lr}")
        if self.print_every_epochs < 1 or self.save_every_s < 0:
            raise ValueError("train.print_every_epochs must be >= 1 and train.save_every_s >= 0")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Record):
    """What lies in ``checkpoint/``: trained weights and how they did."""

    SCHEMA: ClassVar[str] = "torchstone.checkpoint/1"

    key: str
    recipe: str
    files: tuple[FileDigest, ...]
    """The weights (safetensors, the module's own names) and the metrics of every epoch."""
    epochs_count: int
    """0 for a recipe without training."""
    kept_epoch: int
    """Counted from 1; 0 for a recipe without training."""
    metrics: dict[str, float]
    """Of the kept weights: ``<split>_<metric>``, and ``train_loss`` of the last epoch."""
    observed: Observed


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What training tells while it runs."""

    say: Callable[[str], None]
    """One line of text."""
    advance: Callable[[int, int], None]
    """Epochs done, and of how many."""


def seed_everything(seed: int, device: str) -> None:
    """Seed Python, NumPy and torch, and ask torch for deterministic algorithms."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if device == "cuda":
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # cuBLAS is deterministic only with a fixed workspace
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True)


def train(recipe: Recipe, device: str, folder: Path, key: str, progress: Progress) -> Checkpoint:
    """Train into ``folder``, going on from a state that lies there; the caller publishes the folder when it is whole.

    Raises:
        UserError: the loss is not finite.
        KeyboardInterrupt: after the state was saved, at the end of the epoch.
    """
    started = time.monotonic()
    seed_everything(recipe.seed, device)
    data = recipe.data() if recipe.data else None
    torch.manual_seed(recipe.seed)
    module = recipe.model().to(device)
    spec = recipe.train
    if spec is None or data is None or recipe.loss is None:
        _save_tensors(folder / WEIGHTS, module.state_dict())
        write_atomically(folder / METRICS, b"")
        last_loss, kept_epoch = None, 0
    else:
        last_loss, kept_epoch = _Training(recipe, spec, data, module, device, folder).run(progress)
        module.load_state_dict(load_file(folder / WEIGHTS))
    metrics = _final_metrics(recipe, data, module, device)
    if last_loss is not None:
        metrics["train_loss"] = last_loss
        _say_results(metrics, progress)
    checkpoint = Checkpoint(
        key=key,
        recipe=recipe.name,
        files=digest_files(folder, [folder / WEIGHTS, folder / METRICS]),
        epochs_count=spec.epochs if spec else 0,
        kept_epoch=kept_epoch,
        metrics=metrics,
        observed=observed(time.monotonic() - started),
    )
    write(folder / RECORD, checkpoint)
    for leftover in [folder / _PROGRESS, *folder.glob(f"*-{_STATE}")]:
        leftover.unlink(missing_ok=True)
    return checkpoint


class _Training:
    """The loop and its state."""

    def __init__(
        self, recipe: Recipe, spec: TrainSpec, data: Data, module: nn.Module, device: str, folder: Path
    ) -> None:
        assert recipe.loss is not None
        self._recipe, self._spec, self._module, self._device, self._folder = recipe, spec, module, device, folder
        self._loss = recipe.loss
        self._train = _to(data.train, device)
        self._validation = _to(data.validation, device) if data.validation else None
        self._optimizer = recipe.optimizer(module) if recipe.optimizer else _optimizer(spec, module)
        self._base_lrs = [group["lr"] for group in self._optimizer.param_groups]
        self._epoch = 0
        self._best_loss = float("inf")
        self._best: dict[str, torch.Tensor] = {}
        self._kept_epoch = 0
        self._train_loss = float("nan")
        self._lines: list[str] = []
        self._saved_at = time.monotonic()

    def run(self, progress: Progress) -> tuple[float, int]:
        """Train to the end; the last epoch's loss, and the epoch whose weights were kept."""
        if self._resume():
            progress.say(f"resumed after epoch {self._epoch} of {self._spec.epochs}")
        with _deferred_interrupt() as interrupted:
            while self._epoch < self._spec.epochs:
                self._one_epoch()
                progress.advance(self._epoch, self._spec.epochs)
                if self._epoch % self._spec.print_every_epochs == 0:
                    progress.say(f"Epoch [{self._epoch}/{self._spec.epochs}], Loss: {self._train_loss:.4f}")
                last = self._epoch == self._spec.epochs
                if interrupted() or last or time.monotonic() - self._saved_at >= self._spec.save_every_s:
                    self._save()
                if interrupted() and not last:
                    raise KeyboardInterrupt
        _save_tensors(self._folder / WEIGHTS, self._best if self._spec.keep == "best" else self._module.state_dict())
        write_atomically(self._folder / METRICS, "".join(line + "\n" for line in self._lines).encode())
        return self._train_loss, self._kept_epoch

    def _one_epoch(self) -> None:
        self._module.train()
        for group, base in zip(self._optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base * _schedule(self._spec, self._epoch)
        loss_sum, rows_sum = 0.0, 0
        for batch in self._batches():
            outputs = _call(self._recipe, self._module, batch)
            loss = self._loss(outputs, batch.targets)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            loss_sum += loss.item() * batch.rows_count
            rows_sum += batch.rows_count
        self._epoch += 1
        # one batch: its own loss, not a product divided again, which may differ in the last bit
        self._train_loss = loss.item() if rows_sum == batch.rows_count else loss_sum / rows_sum
        if not np.isfinite(self._train_loss):
            raise UserError(
                f"the training loss is {self._train_loss} after epoch {self._epoch}: "
                f"lower --train.lr ({self._spec.lr:g}), or check the data"
            )
        self._note_epoch()

    def _note_epoch(self) -> None:
        """Metrics of the epoch; keep its weights if it is the best so far, or if the last are wanted."""
        line: dict[str, float] = {"epoch": self._epoch, "train_loss": self._train_loss}
        if self._validation:
            outputs = _predict(self._recipe, self._module, self._validation)
            line["validation_loss"] = float(self._loss(outputs, self._validation.targets))
            line |= {
                f"validation_{name}": float(metric(outputs, self._validation.targets))
                for name, metric in self._recipe.metrics.items()
            }
        self._lines.append(json.dumps({name: value if np.isfinite(value) else None for name, value in line.items()}))
        watched = line.get("validation_loss", self._train_loss)
        if self._spec.keep == "last":
            self._kept_epoch = self._epoch
        elif watched < self._best_loss:
            self._best_loss, self._kept_epoch = watched, self._epoch
            self._best = {name: tensor.detach().clone() for name, tensor in self._module.state_dict().items()}

    def _batches(self) -> Iterator[Split]:
        rows = self._spec.batch_rows
        if rows is None:
            yield self._train
            return
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + self._epoch)
        order = torch.randperm(self._train.rows_count, generator=generator).to(self._device)
        for start in range(0, len(order), rows):
            yield _take(self._train, order[start : start + rows])

    def _save(self) -> None:
        """Everything that the next epoch depends on, in two files: tensors, and then the text that vouches for them."""
        state = self._optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in self._module.state_dict().items()}
        scalars: dict[str, Any] = {}
        for index, slots in state["state"].items():
            for name, value in slots.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    scalars[f"{index}.{name}"] = value
        if self._spec.keep == "best" and self._kept_epoch:
            tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        tensors["rng.torch"] = torch.get_rng_state()
        if self._device == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        numpy_state = np.random.get_state(legacy=False)
        text = {
            "epoch": self._epoch,
            "kept_epoch": self._kept_epoch,
            "best_loss": self._best_loss if np.isfinite(self._best_loss) else None,
            "train_loss": self._train_loss,
            "lines": self._lines,
            "scalars": scalars,
            "groups": state["param_groups"],
            "random": random.getstate(),
            "numpy": numpy_state,
            "tensors": f"{self._epoch}-{_STATE}",
        }
        _save_tensors(self._folder / str(text["tensors"]), tensors)
        write_atomically(self._folder / _PROGRESS, json.dumps(text, default=_plain).encode())
        for stale in self._folder.glob(f"*-{_STATE}"):
            if stale.name != text["tensors"]:
                stale.unlink()
        self._saved_at = time.monotonic()

    def _resume(self) -> bool:
        """Take up a saved state; False if there is none."""
        path = self._folder / _PROGRESS
        if not path.exists():
            return False
        text = json.loads(path.read_bytes())
        if not (self._folder / text["tensors"]).exists():
            return False
        tensors = load_file(self._folder / text["tensors"], device=self._device)
        self._module.load_state_dict(_under("model.", tensors))
        slots: dict[int, dict[str, Any]] = {}
        for name, value in (_under("optimizer.", tensors) | text["scalars"]).items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = (
                value.cpu() if slot == "step" and isinstance(value, torch.Tensor) else value
            )
        self._optimizer.load_state_dict({"state": slots, "param_groups": text["groups"]})
        self._best = _under("best.", tensors)
        torch.set_rng_state(tensors["rng.torch"].cpu())
        if self._device == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"].cpu())
        version, internal, gauss = text["random"]
        random.setstate((version, tuple(internal), gauss))
        numpy_state = text["numpy"]
        numpy_state["state"]["key"] = np.asarray(numpy_state["state"]["key"], dtype=np.uint32)
        np.random.set_state(numpy_state)
        self._epoch, self._kept_epoch, self._lines = text["epoch"], text["kept_epoch"], text["lines"]
        self._best_loss = float("inf") if text["best_loss"] is None else text["best_loss"]
        self._train_loss = text["train_loss"]
        return True


def _final_metrics(recipe: Recipe, data: Data | None, module: nn.Module, device: str) -> dict[str, float]:
    """Every metric on every split, of the kept weights."""
    if data is None:
        return {}
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    results: dict[str, float] = {}
    for split_name, split in splits.items():
        if split is None or not recipe.metrics:
            continue
        moved = _to(split, device)
        outputs = _predict(recipe, module, moved)
        results |= {
            f"{split_name}_{name}": float(metric(outputs, moved.targets)) for name, metric in recipe.metrics.items()
        }
    return results


def _say_results(metrics: dict[str, float], progress: Progress) -> None:
    """Accuracy and final loss in the words of the seed document; the split is named where there are several."""
    accuracies = {
        name.removesuffix("_accuracy"): value for name, value in metrics.items() if name.endswith("_accuracy")
    }
    for split, value in accuracies.items():
        progress.say(f"Accuracy: {value * 100:.2f}%" + (f" ({split})" if len(accuracies) > 1 else ""))
    progress.say(f"Final Loss: {metrics['train_loss']}")


def _predict(recipe: Recipe, module: nn.Module, split: Split) -> Any:
    """The model's result on a whole split, in eval mode; large splits are answered in parts and joined."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            if split.rows_count <= _EVALUATION_ROWS:
                return _call(recipe, module, split)
            parts = [
                _call(recipe, module, _take(split, slice(start, start + _EVALUATION_ROWS)))
                for start in range(0, split.rows_count, _EVALUATION_ROWS)
            ]
            return _join(parts)
    finally:
        module.train(training)


def _join(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple | list):
        joined = [_join(list(column)) for column in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return replace(
        first, **{name: _join([getattr(part, name) for part in parts]) for name in first.__dataclass_fields__}
    )


def _call(recipe: Recipe, module: nn.Module, batch: Split) -> Any:
    specs = recipe.signature.inputs
    positional = [batch.inputs[spec.name] for spec in specs if not spec.keyword]
    return module(*positional, **{spec.name: batch.inputs[spec.name] for spec in specs if spec.keyword})


def _take(split: Split, rows: Any) -> Split:
    return replace(
        split, inputs={name: tensor[rows] for name, tensor in split.inputs.items()}, targets=split.targets[rows]
    )


def _to(split: Split, device: str) -> Split:
    return replace(
        split,
        inputs={name: tensor.to(device) for name, tensor in split.inputs.items()},
        targets=split.targets.to(device),
    )


def _optimizer(spec: TrainSpec, module: nn.Module) -> torch.optim.Optimizer:
    parameters = module.parameters()
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    kind = torch.optim.AdamW if spec.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=spec.lr, weight_decay=spec.weight_decay)


def _schedule(spec: TrainSpec, epoch: int) -> float:
    return 0.5 * (1 + float(np.cos(np.pi * epoch / spec.epochs))) if spec.schedule == "cosine" else 1.0


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


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Safetensors, atomically; shared and strided tensors are stored as the values they show."""
    write_atomically(path, save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}))


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and values, hex."""
    return sha256(save({"tensor": tensor.detach().cpu().contiguous().clone()}))


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in the optimizer's state is neither a number nor a tensor")
