"""A batch, what decides which rows it has, and what is demanded of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from export.arrays import dtype_name
from export.device import Device
from export.errors import UserError
from export.explanations import in_users_words
from export.signature import TensorSpec
from pipeline.data import Split
from pipeline.training.distributed import World
from pipeline.training.spec import TrainSpec


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of one step that this process takes."""

    split: Split
    numbers: torch.Tensor | None
    """Their numbers among the training rows, where those are known."""
    rows_count: int
    """Rows of the step, in all processes together."""
    share: float
    """Which part of those this process takes."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What decides which rows a step takes, whatever the data."""

    inputs: tuple[TensorSpec, ...]
    spec: TrainSpec
    seed: int
    where: Device
    world: World

    @property
    def names(self) -> list[str]:
        """The inputs', in the signature's order."""
        return [tensor.name for tensor in self.inputs]

    def order(self, epoch: int, rows_count: int) -> torch.Tensor:
        """The numbers of the rows as an epoch takes them."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(rows_count, generator=generator)

    def steps_count(self, batches_count: int | None) -> int | None:
        """Steps of an epoch of data that has so many batches."""
        known = [count for count in (batches_count, self.spec.steps_per_epoch) if count is not None]
        return min(known) if known else None


class Batches(Protocol):
    """Where the batches come from."""

    steps_count: int | None
    """Batches of an epoch; None where nobody knows."""

    def epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch (from 0) from the ``first``-th on, on the device."""


@contextlib.contextmanager
def reading(epoch: int, number: int) -> Iterator[None]:
    """What the data raises, with the place where it did.

    Raises:
        UserError: for anything that is raised inside.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"batch {number + 1} of epoch {epoch + 1}: {error}") from error
    except (Exception, SystemExit) as error:
        place = f"batch {number + 1} of epoch {epoch + 1}"
        if isinstance(error, ConnectionError | EOFError) or "DataLoader worker" in str(error):
            raise UserError(
                f"a process that reads the data ended at {place}: it may have run out of memory, which fewer "
                f"--train.workers-count need less of; with 0 you see what it raises. ({in_users_words(error)})"
            ) from error
        raise UserError(f"the data failed at {place}: {in_users_words(error)}") from error


def check(split: Split, inputs: Sequence[TensorSpec]) -> None:
    """Hold a batch to the signature.

    Raises:
        UserError: an input has another dtype or shape, or there are not as many targets as rows.
    """
    for tensor in inputs:
        got = split.inputs[tensor.name]
        fits = (
            got.ndim == len(tensor.shape)
            and all(  # but the first: an export for one row is trained with many
                isinstance(size, str) or size == actual
                for size, actual in zip(tensor.shape[1:], got.shape[1:], strict=True)
            )
        )
        if not fits or dtype_name(got) != tensor.dtype:
            raise UserError(
                f"the input {tensor.name!r} must be {tensor.dtype} {tuple(tensor.shape)} by the signature, "
                f"the data has {dtype_name(got)} {tuple(got.shape)}"
            )
        if tensor.shape and tensor.shape[0] == inputs[0].shape[0] and len(got) != split.rows_count:
            raise UserError(f"the data has {len(got)} rows of {tensor.name!r} and {split.rows_count} targets")


def on_device(split: Split, where: Device) -> Split:
    """On the device, without waiting for copies of pinned memory."""
    return Split(
        inputs={name: rows.to(where.torch_name, non_blocking=True) for name, rows in split.inputs.items()},
        targets=split.targets.to(where.torch_name, non_blocking=True),
    )


def demand_rows(count: int) -> None:
    """See that there are rows.

    Raises:
        UserError: there are none.
    """
    if count == 0:
        raise UserError("there are no training rows: the train split of the recipe's data() is empty")
