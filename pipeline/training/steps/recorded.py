"""A step as a CUDA graph: its kernels recorded once for a shape of batches, and then replayed by one launch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from export.device import Device
from export.errors import UserError
from pipeline.data import Split
from pipeline.training.determinism import RandomState
from pipeline.training.state.training import Training
from pipeline.training.steps.step import Step
from pipeline.training.steps.whole import Result, refuse_draws_on_host, refuse_replaced_buffers, slots, whole


class Recorded:
    """Records steps of one training."""

    def __init__(self, step: Step, training: Training, where: Device, *, moves_lr: bool) -> None:
        """``step`` is what is recorded.

        Raises:
            UserError: the optimizer decides on the host what a graph would do the same way for ever.
        """
        self._step, self._training, self._device = step, training, where
        groups = training.optimizer.param_groups
        if not all(group.get("capturable") or group.get("fused") for group in groups):
            raise UserError(
                f"--train.fast on {where.name} needs an optimizer that a CUDA graph can hold, made with "
                f"capturable=True or fused=True: {type(training.optimizer).__name__} was not, or cannot be"
            )
        self._lrs = [torch.tensor(group["lr"], device=where.torch_name) for group in groups if moves_lr]

    def call(self, split: Split) -> Callable[[Split], Result]:
        """Takes steps on batches of the shapes of ``split``; nothing is trained yet.

        Raises:
            UserError: the step cannot be recorded, or a recording of it would do something else.
        """
        fixed = Split(inputs={name: rows.clone() for name, rows in split.inputs.items()}, targets=split.targets.clone())
        kept = self._kept()
        own = [*self._training.module.buffers()]
        buffers, random = [each.detach() for each in own], RandomState.now()

        def step() -> Result:
            return whole(self._step, fixed, self._device, self._training.optimizer.step, kept)

        with self._as_they_are([*kept, *buffers]), self._lr_tensors(), torch.no_grad():
            replay = self._recorded(step)
        self._check(own, len(kept))
        refuse_draws_on_host(random, RandomState.now())

        def call(split: Split) -> Result:
            for name, rows in split.inputs.items():
                fixed.inputs[name].copy_(rows)
            fixed.targets.copy_(split.targets)
            for tensor, group in zip(self._lrs, self._training.optimizer.param_groups, strict=False):
                tensor.fill_(group["lr"])
            loss, norm = replay()
            return loss.clone(), norm.clone()  # the next replay writes over its results

        return call

    def _recorded(self, step: Callable[[], Result]) -> Callable[[], Result]:
        try:
            return self._device.captured(step)
        except UserError as error:
            reason = str(error).partition(": ")[2].removesuffix(". Leave the option out")
            raise UserError(
                f"--train.fast: a CUDA graph cannot hold the step: {reason}. Leave --train.fast out"
            ) from error

    def _check(self, buffers: list[torch.Tensor], kept_count: int) -> None:
        """That the tensors which a replay reads and writes are those of the next step."""
        before = {id(each) for each in buffers}
        refuse_replaced_buffers([name for name, now in self._training.module.named_buffers() if id(now) not in before])
        if len(self._kept()) != kept_count:
            raise UserError("--train.fast: a parameter has no gradient in every step: leave --train.fast out")

    def _kept(self) -> list[torch.Tensor]:
        optimizer = self._training.optimizer
        weights = [each.detach() for group in optimizer.param_groups for each in group["params"]]
        return weights + [each for _, _, each in slots(optimizer)]

    @contextlib.contextmanager
    def _as_they_are(self, tensors: list[torch.Tensor]) -> Iterator[None]:
        """The calls that precede a recording train as well; take it back."""
        before, random = [each.clone() for each in tensors], self._device.random_state()
        yield
        for each, old in zip(tensors, before, strict=True):
            each.copy_(old)
        if random is not None:
            self._device.restore_random_state(random)

    @contextlib.contextmanager
    def _lr_tensors(self) -> Iterator[None]:
        """A learning rate that moves is read from where each step puts it."""
        groups = self._training.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, tensor in zip(groups, self._lrs, strict=False):
            group["lr"] = tensor
        yield
        for group, number in zip(groups, numbers, strict=True):
            group["lr"] = number
