"""Rows in memory, shuffled by a permutation drawn from seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from pipeline.data import Split
from pipeline.training.batches.batch import Batch, Reading, check, demand_rows


class Resident:
    """Rows in memory, on the device from the start."""

    def __init__(self, rows: Split, reading: Reading) -> None:
        demand_rows(rows.rows_count)
        check(rows, reading.inputs)
        self._rows, self._reading = rows.on(reading.where), reading
        self._batch_rows = reading.spec.batch_rows
        self.steps_count = reading.steps_count(-(-rows.rows_count // (self._batch_rows or rows.rows_count)))

    @cached_property
    def _whole(self) -> Batch:
        """All rows as one batch."""
        world, count = self._reading.world, self._rows.rows_count
        own_rows = self._rows if world.size == 1 else self._rows.take(world.part(count))
        return Batch(split=own_rows, numbers=None, rows_count=count, share=world.share(count))

    def epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        """Without ``batch_rows`` all rows at once, in their order."""
        world, size = self._reading.world, self._batch_rows
        if size is None:
            if first == 0:
                yield self._whole
            return
        order = self._reading.order(epoch, self._rows.rows_count)
        on_device = self._reading.where.move(order)
        for start in range(first * size, len(order), size):
            count = min(size, len(order) - start)
            step, own = slice(start, start + count), world.part(count)
            yield Batch(
                split=self._rows.take(on_device[step][own]),
                numbers=order[step][own],
                rows_count=count,
                share=world.share(count),
            )
