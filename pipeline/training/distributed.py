"""The processes that train one model together, started by torchrun: who they are, and what each takes of a batch.

A step's rows are the same whatever the number of processes; each takes its part of them, and gradients are summed as
if one process had taken all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """This process among those that train together; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes records and files; the others only compute."""
        return self.rank == 0

    def part(self, rows_count: int) -> slice:
        """Which rows of a step are this process's; where there are too few for all, the first stands in for none."""
        return slice(self.rank, None, self.size) if self.rank < rows_count else slice(0, 1)

    def share(self, rows_count: int) -> float:
        """What part of a step's rows that is; 0 where the row only stands in."""
        return len(range(self.rank, rows_count, self.size)) / rows_count

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes."""
        return tensor


ALONE = World()
