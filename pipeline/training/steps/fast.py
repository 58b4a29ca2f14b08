"""A step taken at once (``--train.fast``): on the CPU one compiled function, on a GPU one CUDA graph.

What a step is, stands in step.py; only how it is called differs. A training's first step is a plain one, since it makes
what the optimizer keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from export.device import Device
from export.errors import UserError
from pipeline.data import Split
from pipeline.training.batches.batch import Batch
from pipeline.training.distributed import World
from pipeline.training.state.training import Training
from pipeline.training.steps.recorded import Recorded
from pipeline.training.steps.step import Step
from pipeline.training.steps.traced import Traced
from pipeline.training.steps.whole import Result
from pipeline.training.watch.stopwatch import Stopwatch

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.training.spec import TrainSpec

_MOST_SHAPES = 8
_OUT_OF_RANGE = "index out of bounds"
"""All that compiled code says of a label that there is not."""


class FastStep(Step):
    """How a recipe's batches change its module, a call for each step."""

    def __init__(self, recipe: Recipe, spec: TrainSpec, training: Training, where: Device, world: World) -> None:
        """Nothing is compiled or recorded yet.

        Raises:
            UserError: there are several processes; the optimizer cannot be taken with; there is no compiler.
        """
        if world.size > 1:
            raise UserError("--train.fast is for a process alone: start it without torchrun, or leave --train.fast out")
        super().__init__(recipe, spec, training, where, world)
        plain = Step(recipe, spec, training, where, world)
        self._plan: Traced | Recorded = (
            Recorded(plain, training, where, moves_lr=spec.moves_lr)
            if where.asynchronous
            else Traced(recipe, spec, training)
        )
        self._calls: dict[object, Callable[[Split], Result]] = {}
        self._norm: torch.Tensor | None = None
        """The gradients' of the step that was taken, if that was no plain one."""

    def gradients(self, batch: Batch, watch: Stopwatch) -> torch.Tensor:
        """The whole step; its loss, a mean over its rows.

        Raises:
            UserError: the step cannot be traced, or recorded; batches have too many shapes.
        """
        if self._training.counters.step == 0:
            return super().gradients(batch, watch)
        call = self._call(batch.split)
        try:
            loss, self._norm = call(batch.split)
        except RuntimeError as error:
            if _OUT_OF_RANGE in str(error):
                self.show_gradients(batch)  # raises too, and says which value
            raise
        watch.lap("step")
        return loss

    def gradient_norm(self) -> torch.Tensor:
        """The norm of all gradients together, before they were clipped."""
        return super().gradient_norm() if self._norm is None else self._norm

    def update(self) -> None:
        """The weights are new already, but for their average."""
        if self._norm is None:
            super().update()
        else:
            self.update_average()

    def show_gradients(self, batch: Batch) -> None:
        """Those of a plain step: the weights are as they were, if the step had any that is not finite."""
        super().gradients(batch, Stopwatch(self._device))

    def _call(self, split: Split) -> Callable[[Split], Result]:
        layout = tuple((each.shape, each.stride()) for each in (*split.inputs.values(), split.targets))
        if (call := self._calls.get(layout)) is not None:
            return call
        if len(self._calls) == _MOST_SHAPES:
            raise UserError(
                f"--train.fast makes a step for each shape of a batch, and these have more than {_MOST_SHAPES}: give "
                "the rows one length, or leave --train.fast out"
            )
        self._calls[layout] = self._plan.call(split)
        return self._calls[layout]
