"""How a recipe is trained: the settings of the training stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

_AT_LEAST = {
    "epochs": 1, "batch_rows": 1, "accumulate": 1, "steps_per_epoch": 1, "weight_decay": 0, "momentum": 0,
    "warmup_steps": 0, "lr_end_ratio": 0, "step_epochs": 1, "patience_epochs": 1, "print_every_epochs": 1,
    "log_every_steps": 1, "check_every_steps": 1, "save_every_s": 0, "save_every_steps": 1, "workers_count": 0,
}  # fmt: skip
"""The smallest value of a setting; None is always allowed where it is a default."""
_ABOVE = {"lr": 0, "clip_norm": 0, "step_ratio": 0}


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How to train."""

    epochs: int = 10
    """Passes over the training rows."""
    batch_rows: int | None = None
    """Rows per step, shuffled each epoch; None takes all rows at once, in their order."""
    accumulate: int = 1
    """In how many parts a step's rows go through the model, where they do not fit its memory at once."""
    steps_per_epoch: int | None = None
    """Ends an epoch after so many steps; an endless stream of data needs it."""
    optimizer: str = "adam"
    """A class of torch.optim, in letters of any case: sgd, adam, adamw, rmsprop, ..."""
    optimizer_form: Literal["default", "foreach", "fused", "loop"] = "default"
    """How the optimizer goes through the parameters; default is what torch finds best."""
    optimizer_settings: dict[str, float | bool] = field(default_factory=dict)
    """More arguments of the optimizer, by name."""
    lr: float = 1e-3
    """Learning rate at the start, or after the warm-up."""
    momentum: float = 0.0
    """The momentum of sgd, or of another optimizer that has one."""
    weight_decay: float = 0.0
    decay: Literal["all", "matrices"] = "all"
    """Which parameters decay; matrices leaves out what has fewer than two dimensions: norms and biases."""
    clip_norm: float | None = None
    """The largest norm of all gradients together; longer ones are scaled down to it."""
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    """How the learning rate moves, step by step."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises from zero, before the schedule begins."""
    lr_end_ratio: float = 0.0
    """Where cosine and linear end, in parts of the learning rate."""
    step_epochs: int = 10
    """Epochs between two drops of the schedule step."""
    step_ratio: float = 0.1
    """What the learning rate is multiplied by at each drop."""
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    """What the model computes in: strict float32, TF32 products (NVIDIA), or autocast; weights stay as they are."""
    compile: bool = False
    """Compile the module with torch.compile while it trains."""
    fast: bool = False
    """Take each step at once: one compiled function on the CPU, one CUDA graph on a GPU; other roundings."""
    sharded: bool = False
    """Each process that torchrun starts keeps a part of the weights, their gradients and the optimizer (FSDP2)."""
    ema_decay: float | None = None
    """Keep the exponential moving average of the weights, with this decay per step, instead of the weights."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's weights to keep; best is the smallest validation loss."""
    patience_epochs: int | None = None
    """Stop when the validation loss (without one: the training loss) has not fallen for so many epochs."""
    print_every_epochs: int = 10
    log_every_steps: int | None = None
    """Put a line into metrics.jsonl every so many steps, besides that of each epoch."""
    deterministic: bool = True
    """Only algorithms that give the same bits twice; off for a model with an operator that has none on CUDA."""
    check_every_steps: int = 1
    """How often loss and gradients are looked at; a GPU need not wait for the host in between."""
    save_every_s: float = 10.0
    """Least time between two saves of the state that an interrupted run resumes from."""
    save_every_steps: int | None = None
    """Save that state every so many steps as well."""
    workers_count: int = 0
    """Processes that read rows of a data set which is not in memory."""
    tensorboard: bool = False
    """Write TensorBoard's event files into the checkpoint's folder."""
    mlflow: bool = False
    """Write an MLflow run into a file store in the checkpoint's folder."""
    profile: bool = False
    """Leave a trace of five steps by PyTorch's profiler in the checkpoint's folder."""

    @property
    def moves_lr(self) -> bool:
        """Whether the learning rate is not the same at every step."""
        return self.schedule != "constant" or self.warmup_steps > 0

    def __post_init__(self) -> None:
        for name, bound in _AT_LEAST.items():
            if (value := getattr(self, name)) is not None and not value >= bound:
                raise ValueError(f"train.{name} must be >= {bound}, got {value}")
        for name, bound in _ABOVE.items():
            if (value := getattr(self, name)) is not None and not value > bound:
                raise ValueError(f"train.{name} must be > {bound}, got {value}")
        if self.sharded and self.compile:
            raise ValueError("train.sharded leaves no weights whole, which train.compile needs: take one of both")
        if self.fast and (self.compile or self.sharded):
            raise ValueError("train.fast takes whole steps of whole weights: leave out train.compile and train.sharded")
        if self.fast and self.precision == "float16":
            raise ValueError("train.fast has no loss scaler, which float16 needs: take train.precision bfloat16")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"train.ema_decay must lie between 0 and 1, got {self.ema_decay}")
