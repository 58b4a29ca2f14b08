"""A whole step as one function, which can be traced or recorded: a batch to new weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from export.device import Device
from pipeline.data import Split
from pipeline.training.batches.batch import Batch
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
