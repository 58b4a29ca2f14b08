"""The data of a recipe: splits of rows, resident in memory, and what is done with them as wholes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from export.device import Device

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


@dataclass(frozen=True, kw_only=True)
class Data:
    """The splits of a data set; ``validation`` chooses the best epoch, ``test`` is looked at once, at the end."""

    train: Split
    validation: Split | None = None
    test: Split | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def held_out(self) -> tuple[str, Split]:
        """Name and rows of the split that nothing was trained on, where there is one."""
        return ("test", self.test) if self.test is not None else ("train", self.train)
