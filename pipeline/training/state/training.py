"""What a training is between two steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


@dataclass
class Counters:
    """What the loop itself remembers between steps."""

    epoch: int = 0
    """Epochs done."""
    epoch_step: int = 0
    """Steps done of the epoch that is under way."""
    step: int = 0
    """Steps done in all."""
    epoch_loss: float = 0.0
    """Sum over the epoch's rows so far."""
    epoch_rows: int = 0
    skipped_steps: int = 0
    """Steps that float16's loss scaler left out."""
    kept_epoch: int = 0
    best_loss: float | None = None
    stale_epochs: int = 0
    """Epochs since the watched loss was at its best."""
    train_loss: float = float("nan")
    """The last whole epoch's."""


@dataclass(kw_only=True)
class Training:
    """What a state is the state of."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None = None
    scaler: torch.amp.GradScaler | None = None
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """The best weights so far, where those are to be kept."""
    counters: Counters = field(default_factory=Counters)
