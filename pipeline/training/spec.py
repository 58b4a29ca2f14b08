"""How a recipe is trained: the settings of the training stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How to train."""

    epochs: int = 10
    """Passes over the training rows."""
    batch_rows: int | None = None
    """Rows per step, shuffled each epoch; None takes all rows at once, in their order."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    lr: float = 1e-3
    """Learning rate at the start."""
    momentum: float = 0.0
    """The momentum of sgd."""
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate moves, per epoch; cosine ends at zero."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's weights to keep; best is the smallest validation loss."""
    print_every_epochs: int = 10
    deterministic: bool = True
    """Only algorithms that give the same bits twice; off for a model with an operator that has none on CUDA."""
    save_every_s: float = 10.0
    """Least time between two saves of the state that an interrupted run resumes from."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"train.epochs must be >= 1, got {self.epochs}")
        if self.batch_rows is not None and self.batch_rows < 1:
            raise ValueError(f"train.batch_rows must be >= 1, got {self.batch_rows}")
        if self.lr <= 0:
            raise ValueError(f"train.lr must be > 0, got {self.lr}")
        if self.print_every_epochs < 1 or self.save_every_s < 0:
            raise ValueError("train.print_every_epochs must be >= 1 and train.save_every_s >= 0")
