"""The processes that train one model together, started by torchrun: who they are, and what each takes of a batch.

A step's rows are the same whatever the number of processes; each takes its part of them, and gradients are summed as
if one process had taken all. What is decided by a clock or a signal is decided by the first, and the others hear it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from export.device import Device
from export.errors import UserError

_TIMEOUT_S = 600.0
"""After which a process that waits for the others gives up."""
_T = TypeVar("_T")


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
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def first(self, value: _T) -> _T:
        """The first process's value, in all."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        result: _T = values[0]
        return result

    def all(self, value: _T) -> list[_T]:
        """Every process's value, by rank, in all."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def around(self, module: nn.Module) -> nn.Module:
        """What to call in place of a module, so that its gradients are the sum over all processes."""
        return module if self.size == 1 else nn.parallel.DistributedDataParallel(module)

    def share_buffers(self, module: nn.Module) -> None:
        """The first process's buffers, such as the statistics of batch norm, in all."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)


ALONE = World()


@contextlib.contextmanager
def together(where: Device) -> Iterator[World]:
    """The processes that torchrun started, joined while inside; alone where it started none.

    Raises:
        UserError: the others did not come, or one left.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ALONE
        return
    where.enter_thread()
    timeout = timedelta(seconds=_TIMEOUT_S)
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    # torchrun keeps its store when it starts processes again, and in it the addresses of those that are gone
    attempt = PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if where.asynchronous else "gloo"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size, timeout=timeout)
    try:
        yield World(rank, size)
    except dist.DistError as error:
        raise UserError(f"rank {rank} of {size} lost the others: {str(error).partition(chr(10))[0]}") from error
    finally:
        dist.destroy_process_group()
