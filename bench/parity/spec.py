"""How deeply parity looks, and how wrong an artifact may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Depth = Literal["quick", "full"]


@dataclass(frozen=True, kw_only=True)
class ParitySpec:
    """How parity is judged; docs/parity.md says where the thresholds come from."""

    depth: Depth = "quick"
    """full repeats in fresh processes and with one thread, and draws ten times as many equivalent variants."""
    rows_count: int = 2048
    """Rows on which errors are measured: real ones first, the rest real ones with noise."""
    batch_rows: tuple[int, ...] = (1, 2, 7, 32, 257)
    """Rows per call; sizes outside the declared range are left out."""
    max_rms_ratio: float = 2.0
    """Largest RMS error over all rows, as a multiple of eager float32's own."""
    max_peak_ratio: float = 4.0
    """Largest single error, as a multiple of eager float32's own largest."""
    max_slope_ulps: float = 4.0
    """Largest relative error that grows with the output, per channel, in units of the dtype's rounding."""
    metric_margin: float = 0.01
    """A metric whose change surely lies within this is unchanged, in the metric's own units."""
    nonfinite_inputs: bool = False
    """Whether NaN and Inf are legal inputs: an artifact that treats them otherwise than the model then fails."""
    call_limit_s: float = 2.0
    """A size at which the model itself would take longer per call is left out, and said to be."""
    allow_no_reference: bool = False
    """Whether a model that cannot run in float64 may ship without an error ratio."""

    def __post_init__(self) -> None:
        if not self.batch_rows or min(self.batch_rows) < 0:
            raise ValueError(f"parity.batch_rows must be sizes >= 0, got {self.batch_rows}")
        if self.rows_count < 1:
            raise ValueError(f"parity.rows_count must be >= 1, got {self.rows_count}")
        if not (self.max_rms_ratio >= 1 and self.max_peak_ratio >= 1):
            raise ValueError(
                f"parity ratios must be >= 1 (eager itself has 1), got {self.max_rms_ratio} and {self.max_peak_ratio}"
            )
        if not (self.max_slope_ulps > 0 and self.metric_margin > 0 and self.call_limit_s > 0):
            raise ValueError(
                "parity.max_slope_ulps, metric_margin and call_limit_s must be > 0, "
                f"got {self.max_slope_ulps}, {self.metric_margin} and {self.call_limit_s}"
            )


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a report was judged by: the recipe's thresholds, raised where equivalent variants exceed them."""

    max_rms_ratio: float
    max_peak_ratio: float
    max_slope_ulps: float
    raised: str | None = None
    """Which variant raised them, and by how much; None if they are the recipe's own."""
