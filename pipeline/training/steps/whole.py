"""A whole step as one function, which can be traced or recorded: a batch to new weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from export.device import Device
from export.errors import UserError
from pipeline.data import Split
from pipeline.training.batches.batch import Batch
from pipeline.training.determinism import RandomState
from pipeline.training.steps.step import Step
from pipeline.training.watch.stopwatch import Stopwatch

Result = tuple[torch.Tensor, torch.Tensor]
"""The loss of a step, and the norm of its gradients, both of shape ()."""


def whole(
    step: Step, split: Split, where: Device, advance: Callable[[], object], kept: Sequence[torch.Tensor]
) -> Result:
    """Gradients, their norm, then ``advance``, the optimizer's step.

    ``kept``, weights and what the optimizer keeps, stay as they were where the loss or a gradient is not finite: nobody
    asks before.
    """
    before = [each.clone() for each in kept]
    batch = Batch(split=split, numbers=None, rows_count=split.rows_count, share=1.0)
    with torch.enable_grad():
        loss = step.gradients(batch, Stopwatch(where)).detach()
    norm = step.gradient_norm().detach()
    advance()
    is_finite = torch.isfinite(loss) & torch.isfinite(norm)
    for each, old in zip(kept, before, strict=True):
        each.copy_(torch.where(is_finite, each, old))
    return loss, norm


def slots(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.Tensor, str, torch.Tensor]]:
    """What an optimizer keeps: the parameter, the name, the tensor."""
    for parameter, state in optimizer.state.items():
        yield from ((parameter, name, each) for name, each in state.items() if isinstance(each, torch.Tensor))


def refuse_draws_on_host(before: RandomState, after: RandomState) -> None:
    """A step that is traced or recorded holds what it was given by generators that are not torch's.

    Raises:
        UserError: it drew from one between the two states.
    """
    if drew := after.drawn_on_host(before):
        raise UserError(
            f"--train.fast makes one function of a step, which would give for ever what {drew} drew once: let the "
            "model and the loss draw from torch, or leave --train.fast out"
        )


def refuse_replaced_buffers(names: Sequence[str]) -> None:
    """A step that is traced or recorded reads and writes the buffers that there were.

    Raises:
        UserError: forward put other tensors in the place of some.
    """
    if names:
        raise UserError(
            f"--train.fast: forward puts another tensor in the place of the buffer {names[0]}, which one function of a "
            "step does not see: write into it (copy_), or leave --train.fast out"
        )
