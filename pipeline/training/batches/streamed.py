"""A loader of the user's own, or rows that come one after the other: taken as they are.

Their generators are set from seed and epoch and kept apart from the model's, so that reading up to the step where a
training goes on gives what it gave the first time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from pipeline.data import as_split
from pipeline.training.batches.batch import Batch, Reading, check, demand_rows, on_device, reading
from pipeline.training.determinism import RandomState


class Streamed:
    """A loader of the user's own, or rows that come one after the other: the order is theirs."""

    def __init__(self, rows: DataLoader[Any] | IterableDataset[Any], plan: Reading) -> None:
        self._reading = plan
        self._loader: DataLoader[Any] = (
            rows
            if isinstance(rows, DataLoader)
            else DataLoader(
                rows,
                batch_size=plan.spec.batch_rows or 1,
                num_workers=plan.spec.workers_count,
                pin_memory=plan.where.asynchronous,
            )
        )
        try:
            self.steps_count = plan.steps_count(len(self._loader))
        except TypeError:  # a data set without a length
            self.steps_count = plan.steps_count(None)

    def epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches before the first that is wanted are read, and passed over."""
        world = self._reading.world
        state = RandomState.of(self._reading.seed, epoch)
        if isinstance(self._loader.generator, torch.Generator):
            self._loader.generator.manual_seed(self._reading.seed * 1_000_003 + epoch)
        read: Iterator[Any] | None = None
        for number in itertools.count():
            models = RandomState.now()
            state.restore()
            try:
                with reading(epoch, number):
                    read = iter(self._loader) if read is None else read
                    if (batch := next(read, None)) is None:
                        break
                    split = as_split(batch, self._reading.names)
                    check(split, self._reading.inputs)
            finally:
                state = RandomState.now()
                models.restore()
            if number >= first:
                own = split if world.size == 1 else split.take(world.part(split.rows_count))
                yield Batch(
                    split=on_device(own, self._reading.where),
                    numbers=None,
                    rows_count=split.rows_count,
                    share=world.share(split.rows_count),
                )
        demand_rows(number)
