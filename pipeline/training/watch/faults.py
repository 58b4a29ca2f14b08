"""What goes wrong in a step, in words that name the step, the rows and what to try."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn

from export.errors import UserError
from pipeline.training.batches.batch import Batch
from pipeline.training.distributed import World
from pipeline.training.spec import TrainSpec
from pipeline.training.watch.health import nonfinite_forward, nonfinite_gradient, rows_named

_OUT_OF_RANGE = re.compile(r"[Tt]arget (-?\d+) is out of bounds|index (-?\d+) is out of bounds|index out of range")
_CONNECTION = re.compile(r"gloo|nccl|connection (was )?(closed|reset)|timed out", re.IGNORECASE)
_IN_PARTS = re.compile(r"DTensor|DeviceMesh|placement")
_NO_MEMORY = ("can't allocate memory", "out of memory")


@dataclass(frozen=True)
class Place:
    """Where a training is."""

    epoch: int
    """From 1, as ``step``."""
    step: int
    batch: Batch | None
    """The step's rows; None where they are gone."""
    _: KW_ONLY
    spec: TrainSpec
    saved_step: int
    """The step after which the last state was saved; 0 if there is none."""

    def __str__(self) -> str:
        return f"step {self.step} (epoch {self.epoch})"


class Step(Protocol):
    """What a step that went wrong can be asked for once more."""

    def forward_again(self, batch: Batch) -> object:
        """The batch through the module."""

    def show_gradients(self, batch: Batch) -> None:
        """See that the batch's gradients lie with the parameters."""


def nonfinite(place: Place, module: nn.Module, step: Step, loss: float, gradient_norm: float) -> UserError:
    """A loss or gradients that are not finite; weights are still as they were before the step."""
    of_loss = not math.isfinite(loss)
    what = f"the training loss is {loss}" if of_loss else f"the norm of the gradients is {gradient_norm}"
    batch, where, rows = place.batch, "", ""
    if batch is None:
        where = "; --train.check-every-steps 1 names the rows and the module"
    elif of_loss:
        cause, numbers = nonfinite_forward(module, lambda: step.forward_again(batch), batch.split)
        where, rows = f": {cause}", rows_named(numbers, batch)
    else:
        step.show_gradients(batch)
        where, rows = f": {nonfinite_gradient(module)}", rows_named([], batch)
    kept = f" The state after step {place.saved_step} is kept." if place.saved_step else ""
    return UserError(
        f"{what} at {place}{rows}{where}. Lower --train.lr ({place.spec.lr:g}), set --train.clip-norm, or check the "
        f"data.{kept}"
    )


@contextlib.contextmanager
def named_losses(world: World, here: Callable[[], Place]) -> Iterator[None]:
    """Around a whole training: other processes that are gone, wherever this one notices it.

    Raises:
        UserError: with the rank and the place.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and (world.size == 1 or not _CONNECTION.search(str(error))):
            raise
        cause = str(error).partition(chr(10))[0]
        raise UserError(
            f"rank {world.rank} of {world.size} lost the others at {here()}: one ended, or hangs. ({cause})"
        ) from error


@contextlib.contextmanager
def named_faults(here: Callable[[], Place]) -> Iterator[None]:
    """Around steps: too little memory, labels that the loss does not have, weights in parts that do not fit together.

    Raises:
        UserError: for each, with the rows, and what to try.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(here(), error) from error
    except (RuntimeError, IndexError) as error:
        place = here()
        if "DataLoader worker" in str(error):  # raised by a signal, wherever the process is
            raise UserError(f"a process that reads the data ended: {str(error).partition(chr(10))[0]}") from error
        if place.spec.sharded and _IN_PARTS.search(str(error)):
            raise UserError(
                f"--train.sharded does not go with this model and its optimizer, at {place}: "
                f"{str(error).partition(chr(10))[0]} Take an optimizer such as adamw; call the modules of a ModuleList "
                "as modules, and not their weights; or leave --train.sharded out"
            ) from error
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY):
            raise _out_of_memory(place, error) from error
        if (match := _OUT_OF_RANGE.search(str(error))) is None:
            raise
        raise _out_of_range(place, match, error) from error


def _out_of_memory(place: Place, error: BaseException) -> UserError:
    assert place.batch is not None
    shapes = ", ".join(f"{name} {tuple(rows.shape)}" for name, rows in place.batch.split.inputs.items())
    parts = place.spec.accumulate
    return UserError(
        f"out of memory at {place}, with a batch of {place.batch.split.rows_count} rows ({shapes}) in {parts} "
        f"part{'s' * (parts > 1)}: try --train.accumulate {2 * parts}, which changes nothing else, "
        f"--train.precision bfloat16, or a smaller --train.batch-rows. ({str(error).partition(chr(10))[0]})"
    )


def _out_of_range(place: Place, match: re.Match[str], error: BaseException) -> UserError:
    assert place.batch is not None
    value = next((int(group) for group in match.groups() if group is not None), None)
    targets = place.batch.split.targets
    rows: list[int] = []
    if value is not None and not targets.is_floating_point():
        rows = torch.nonzero((targets == value).reshape(len(targets), -1).any(1)).flatten().tolist()
    where = rows_named(rows, place.batch)
    return UserError(
        f"a target or an index is out of range at {place}{where}: {str(error).strip().partition(chr(10))[0]}. "
        "Check that the model has as many outputs as there are classes, and that labels count from 0."
    )
