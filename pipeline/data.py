"""The data of a recipe: rows in memory, or read as they are needed, and what is done with them as wholes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from export.device import Device
from export.errors import UserError

Metric = Callable[[Any, torch.Tensor], float]
"""``metric(outputs, targets)``: the model's result on a whole split, to a number."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of data: inputs by name, each ``(rows, ...)``, and targets ``(rows, ...)``."""

    inputs: Mapping[str, torch.Tensor]
    targets: torch.Tensor

    @property
    def rows_count(self) -> int:
        """Number of rows."""
        return len(self.targets)

    def take(self, rows: Any) -> Split:
        """Some of the rows, by a slice or by indices."""
        return replace(
            self, inputs={name: tensor[rows] for name, tensor in self.inputs.items()}, targets=self.targets[rows]
        )

    def on(self, where: Device) -> Split:
        """The rows on a device; nothing is copied if they lie there."""
        return replace(
            self,
            inputs={name: where.move(tensor) for name, tensor in self.inputs.items()},
            targets=where.move(self.targets),
        )


Rows = Split | Dataset[Any] | DataLoader[Any]
"""Rows in memory; a data set that gives a row by its number, or one after the other; a loader of batches.

A row, and a batch, is ``(inputs, targets)``, where inputs are a tensor, several in the signature's order, or a mapping
by name; or a mapping of the inputs with one more entry, the targets.
"""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The splits of a data set; ``validation`` chooses the best epoch, ``test`` is looked at once, at the end."""

    train: Rows
    validation: Rows | None = None
    test: Rows | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that are in memory, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if isinstance(split, Split)}

    def held_out(self, names: Sequence[str], rows_count: int) -> tuple[str, Split]:
        """Name and rows of the split that nothing was trained on, where there is one; all rows, if in memory."""
        name, rows = ("test", self.test) if self.test is not None else ("train", self.train)
        return name, in_memory(rows, names, rows_count)

    def evaluated_in_memory(self, names: Sequence[str]) -> Data:
        """The same with the splits that metrics are taken of, as wholes, in memory."""
        validation, test = (
            None if rows is None else in_memory(rows, names, None) for rows in (self.validation, self.test)
        )
        return replace(self, validation=validation, test=test)


def in_memory(rows: Rows, names: Sequence[str], rows_count: int | None) -> Split:
    """Rows in memory as they are; of other data the first so many, or all (None).

    Raises:
        UserError: there are none, or they are not what a row must be.
    """
    if isinstance(rows, Split):
        return rows
    batches: list[Split] = []
    for batch in rows if isinstance(rows, DataLoader) else _in_batches(rows):
        batches.append(as_split(batch, names))
        if rows_count is not None and sum(part.rows_count for part in batches) >= rows_count:
            break
    if not batches:
        raise UserError("a split of the data has no rows: the recipe's data() must give it one at least")
    return _joined(batches).take(slice(rows_count))


def as_split(batch: Any, names: Sequence[str]) -> Split:
    """A batch of a loader, or of rows that were collated, as inputs by name and targets.

    Raises:
        UserError: it is neither ``(inputs, targets)`` nor a mapping of the inputs and the targets.
    """
    if isinstance(batch, Split):
        return batch
    if isinstance(batch, Mapping) and len(rest := [key for key in batch if key not in names]) == 1:
        targets = batch[rest[0]]
        inputs: Mapping[str, Any] = {name: value for name, value in batch.items() if name != rest[0]}
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        inputs, targets = _by_name(batch[0], names), batch[1]
    else:
        raise UserError(
            f"a batch of the data must be (inputs, targets), or a mapping of {', '.join(names)} and the targets; got "
            + (f"a mapping of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else _kind(batch))
        )
    wrong = [name for name in names if not isinstance(inputs.get(name), torch.Tensor)]
    if wrong or len(inputs) != len(names) or not isinstance(targets, torch.Tensor):
        shown = {**inputs, "targets": targets}
        raise UserError(
            f"a batch of the data must hold tensors for {', '.join(names)} and the targets; got "
            + ", ".join(f"{name} ({_kind(value)})" for name, value in shown.items())
        )
    return Split(inputs={name: inputs[name] for name in names}, targets=targets)


def _by_name(inputs: Any, names: Sequence[str]) -> Mapping[str, Any]:
    if isinstance(inputs, Mapping):
        return inputs
    values = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    numbered = {f"input {number}": value for number, value in enumerate(values)}
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else numbered


def _in_batches(rows: Dataset[Any]) -> Iterator[Any]:
    """The rows of a data set in their order, each as a batch of its own."""
    if isinstance(rows, IterableDataset):
        yield from (default_collate([row]) for row in rows)
        return
    yield from (default_collate([rows[number]]) for number in range(len(rows)))  # type: ignore[arg-type]


def _joined(parts: list[Split]) -> Split:
    return Split(
        inputs={name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs},
        targets=torch.cat([part.targets for part in parts]),
    )


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
