"""One step of training: a batch to gradients, and gradients to new weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from export.device import Device
from pipeline.data import Split
from pipeline.training.batches.batch import Batch
from pipeline.training.distributed import World
from pipeline.training.evaluate import Caller
from pipeline.training.precision import Precision
from pipeline.training.sharding import is_unit, whole
from pipeline.training.state.training import Training
from pipeline.training.watch.stopwatch import Stopwatch

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.training.spec import TrainSpec


_SMALL = 10_000
"""Gradients of fewer numbers are put in a row for their norm: a third of the time that many calls take."""


def averaged(spec: TrainSpec, module: nn.Module) -> AveragedModel | None:
    """The moving average of a module's weights, where one is asked for."""
    if spec.ema_decay is None:
        return None
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(spec.ema_decay))


class Step:
    """How a recipe's batches change its module."""

    def __init__(
        self,
        recipe: Recipe,
        spec: TrainSpec,
        training: Training,
        where: Device,
        world: World,
        around: Callable[..., Any] | None = None,
    ) -> None:
        """``around`` is called in place of the module, with its arguments."""
        assert recipe.loss is not None
        self._spec, self._training, self._loss, self._world, self._device = spec, training, recipe.loss, world, where
        self._precision = Precision(spec, where)
        training.scaler = self._precision.scaler
        if spec.compile:
            training.module.compile()
        self._around = training.module if spec.sharded else world.around(training.module)
        self.call = Caller(recipe, training.module, around or self._around)
        self._parameters = [each for group in training.optimizer.param_groups for each in group["params"]]
        alike = len({(each.dtype, each.layout) for each in self._parameters}) == 1
        self._is_small = not spec.sharded and alike and sum(each.numel() for each in self._parameters) < _SMALL

    def gradients(self, batch: Batch, watch: Stopwatch) -> torch.Tensor:
        """The batch forward and backward; its loss, a mean over its rows."""
        for each in self._parameters:  # zero_grad, without the profiler's marks, which small models feel
            each.grad = None
        if self._spec.sharded:
            self._world.share_buffers(self._training.module)  # as DistributedDataParallel does
        total: torch.Tensor | None = None
        for part, share, is_last in self._parts(batch):
            with contextlib.nullcontext() if is_last else self._apart():
                with self._precision.computing():
                    loss = self._loss(self.call(part), part.targets)
                loss = loss.reshape(()) if loss.ndim else loss
                watch.lap("forward")
                weighted = loss if share == 1 else loss * share
                scaler = self._training.scaler
                (weighted if scaler is None else scaler.scale(weighted)).backward()
                watch.lap("backward")
            total = weighted.detach() if total is None else total + weighted.detach()
        assert total is not None
        return total

    def gradient_norm(self) -> torch.Tensor:
        """The norm of all gradients together; what is beyond ``clip_norm`` is scaled down to it."""
        if self._training.scaler is not None:
            self._training.scaler.unscale_(self._training.optimizer)
        given = [each.grad for each in self._parameters if each.grad is not None]
        gradients = [each.coalesce().values() if each.is_sparse else each for each in given]
        if self._is_small and self._spec.clip_norm is None:
            norm: torch.Tensor = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
            return norm
        norm = whole(nn.utils.get_total_norm(gradients))
        if self._spec.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._spec.clip_norm, norm)
        return norm

    def update(self) -> None:
        """New weights; with float16 only if every gradient is finite."""
        optimizer, scaler = self._training.optimizer, self._training.scaler
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        self.update_average()

    def update_average(self) -> None:
        """The moving average of the weights, where one is asked for."""
        if self._training.average is not None:
            self._training.average.update_parameters(self._training.module)

    def show_gradients(self, batch: Batch) -> None:
        """See that a batch's gradients lie with the parameters, for whoever looks at them: they do."""

    def forward_again(self, batch: Batch) -> object:
        """The batch through the module, for whoever looks what becomes of it."""
        with self._precision.computing():
            return self.call(batch.split)

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """Processes add up their gradients after the last part alone."""
        around = self._around
        if is_unit(around):
            around.set_requires_gradient_sync(False)
            yield
            around.set_requires_gradient_sync(True)
        elif isinstance(around, nn.parallel.DistributedDataParallel):
            with around.no_sync():
                yield
        else:
            yield

    def _parts(self, batch: Batch) -> Iterator[tuple[Split, float, bool]]:
        """What goes through the model at once, its share of the step's rows, and whether it is the last."""
        share = batch.share * self._world.size
        if self._spec.accumulate == 1:
            yield batch.split, share, True
            return
        rows_count, bounds = batch.split.rows_count, self._bounds(batch)
        if len(bounds) <= 2:
            yield batch.split, share, True
            return
        for start, end in pairwise(bounds):
            yield batch.split.take(slice(start, end)), share * (end - start) / rows_count, end == rows_count

    def _bounds(self, batch: Batch) -> list[int]:
        """Where the parts begin and end; of sharded weights, which each gathers anew, as many in every process."""
        accumulate, rows_count = self._spec.accumulate, batch.split.rows_count
        if self._spec.sharded and self._world.size > 1:
            count = min(accumulate, max(batch.rows_count // self._world.size, 1))
            return [number * rows_count // count for number in range(count + 1)]
        return [*range(0, rows_count, max(-(-rows_count // accumulate), 1)), rows_count]
