"""A data set that gives a row by its number: read row by row, in this process or by workers.

What a row draws for itself (augmentation) comes from seed, epoch and row, whichever process reads it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.data import as_split
from pipeline.training.batches.batch import Batch, Reading, check, demand_rows, on_device, reading
from pipeline.training.determinism import RandomState, seed_generators


class Numbered:
    """A data set that gives a row by its number: read row by row, in this process or by workers."""

    def __init__(self, rows: Dataset[Any], reading: Reading) -> None:
        self._rows_count = len(rows)  # type: ignore[arg-type]
        demand_rows(self._rows_count)
        self._reading = reading
        size = reading.spec.batch_rows or self._rows_count
        self._order = _Order(self._rows_count, size, reading)
        self.steps_count = reading.steps_count(-(-self._rows_count // size))
        workers_count = reading.spec.workers_count
        self._loader: DataLoader[Any] = DataLoader(
            Seeded(rows, reading.seed),
            batch_sampler=self._order,
            num_workers=workers_count,
            persistent_workers=workers_count > 0,
            pin_memory=reading.where.asynchronous,
            generator=torch.Generator(),  # it would draw from the model's
        )

    def epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        """Workers begin at the first batch that is wanted."""
        self._order.epoch, self._order.first = epoch, first
        read = iter(self._loader)
        for number in itertools.count(first):
            with reading(epoch, number):
                if (batch := next(read, None)) is None:
                    return
                split = as_split(batch, self._reading.names)
                check(split, self._reading.inputs)
            count = len(self._order.rows(number))
            yield Batch(
                split=on_device(split, self._reading.where),
                numbers=self._order.own_rows(number),
                rows_count=count,
                share=self._reading.world.share(count),
            )


class _Order(Sampler[list[tuple[int, int]]]):
    """What a loader asks a data set for: the epoch and the number of each row of a batch."""

    def __init__(self, rows_count: int, batch_rows: int, reading: Reading) -> None:
        self._rows_count, self._batch_rows, self._reading = rows_count, batch_rows, reading
        self.epoch = self.first = 0
        self._drawn: tuple[int, torch.Tensor] = (-1, torch.empty(0))

    def rows(self, number: int) -> torch.Tensor:
        """The rows of a batch."""
        if self._drawn[0] != self.epoch:
            self._drawn = (self.epoch, self._reading.order(self.epoch, self._rows_count))
        return self._drawn[1][number * self._batch_rows : (number + 1) * self._batch_rows]

    def own_rows(self, number: int) -> torch.Tensor:
        """Those that this process takes."""
        rows = self.rows(number)
        return rows[self._reading.world.part(len(rows))]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in range(self.first, -(-self._rows_count // self._batch_rows)):
            yield [(self.epoch, row) for row in self.own_rows(number).tolist()]


class Seeded(Dataset[Any]):
    """The rows of a data set, each read with generators that were set for it."""

    def __init__(self, rows: Dataset[Any], seed: int) -> None:
        self._rows, self._seed = rows, seed

    def __getitems__(self, places: list[tuple[int, int]]) -> list[Any]:
        """Rows by epoch and number."""
        before = RandomState.now()
        try:
            return [self._row(epoch, number) for epoch, number in places]
        finally:
            before.restore()

    def _row(self, epoch: int, number: int) -> Any:
        seed_generators(self._seed, epoch, number)
        return self._rows[number]
