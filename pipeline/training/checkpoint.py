"""What training leaves on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from export.files import FileDigest
from export.record import OMITTED, Observed, Record


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Record):
    """What lies in ``checkpoint/``: trained weights and how they did."""

    SCHEMA: ClassVar[str] = "torchstone.checkpoint/1"

    key: str
    recipe: str
    files: tuple[FileDigest, ...]
    """The weights (safetensors, the module's own names) and the metrics of every epoch."""
    data_sha256: dict[str, str]
    """Digests of every tensor of the data, as ``<split>.<name>``; of a data set that is read row by row of up to 4096
    rows, whatever their order, as ``train.rows``."""
    epochs_count: int
    """0 for a recipe without training."""
    kept_epoch: int
    """Counted from 1; 0 for a recipe without training."""
    metrics: dict[str, float]
    """Metrics of the kept weights: ``<split>_<metric>``, and ``train_loss`` of the last epoch."""
    seed: int | None = field(default=None, metadata=OMITTED)
    precision: str | None = field(default=None, metadata=OMITTED)
    """What it was trained in: ``float32``, ``bfloat16``; None where our loop did not train it."""
    world_size: int = field(default=1, metadata=OMITTED)
    """Processes that trained it together."""
    version: str | None = field(default=None, metadata=OMITTED)
    """Torchstone's."""
    environment: dict[str, Any] = field(default_factory=dict, metadata=OMITTED)
    """As in ``recipe.json``: Python, versions of what it rests on, the machine."""
    observed: Observed
