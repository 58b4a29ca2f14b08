"""What training leaves on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from export.files import FileDigest
from export.record import Observed, Record


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Record):
    """What lies in ``checkpoint/``: trained weights and how they did."""

    SCHEMA: ClassVar[str] = "torchstone.checkpoint/1"

    key: str
    recipe: str
    files: tuple[FileDigest, ...]
    """The weights (safetensors, the module's own names) and the metrics of every epoch."""
    data_sha256: dict[str, str]
    """Digests of every tensor of the data, as ``<split>.<name>``."""
    epochs_count: int
    """0 for a recipe without training."""
    kept_epoch: int
    """Counted from 1; 0 for a recipe without training."""
    metrics: dict[str, float]
    """Metrics of the kept weights: ``<split>_<metric>``, and ``train_loss`` of the last epoch."""
    observed: Observed
