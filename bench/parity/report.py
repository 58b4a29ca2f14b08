"""The record of parity: every level's findings about one artifact, and the verdict that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.parity.check import Check
from bench.parity.levels.decisions import Flips
from bench.parity.levels.error import Ulps
from bench.parity.spec import ParitySpec, Thresholds
from export.backend import LoadOptions, Witness
from export.record import Observed, Record

ParityStatus = Literal["pass", "fail", "inconclusive", "no-reference"]


@dataclass(frozen=True, kw_only=True)
class OutputParity:
    """The figures of one output of one artifact, over all rows."""

    name: str
    rms_ratio: float
    peak_ratio: float
    peak_case: str
    """The case of the largest error."""
    max_abs_error: float
    ulps: Ulps | None
    slope_ulps: float | None
    """The steepest error that grows with the output, per channel; None if too few rows can tell."""
    flips: Flips | None
    compared_count: int
    """Elements whose value was compared, of all cases."""
    undefined_count: int
    """Elements on which float64 and eager float32 do not agree whether they are finite."""


@dataclass(frozen=True, kw_only=True)
class TestedSizes:
    """The sizes of one dynamic dimension between which the artifact was right, both ends tried."""

    min: int
    max: int


@dataclass(frozen=True, kw_only=True)
class ParityReport(Record):
    """Whether one artifact computes the model's function, with the evidence."""

    SCHEMA: ClassVar[str] = "torchstone.parity/3"

    key: str
    artifact: str
    artifact_sha256: str
    reference_sha256: str
    status: ParityStatus
    reasons: tuple[str, ...]
    """Why it does not pass; empty if it does."""
    spec: ParitySpec
    thresholds: Thresholds
    options: LoadOptions
    """How the artifact was loaded; it is measured and served in no other way."""
    checks: tuple[Check, ...]
    outputs: tuple[OutputParity, ...]
    tested_sizes: dict[str, TestedSizes]
    """By symbol."""
    witness: Witness
    observed: Observed

    @property
    def worst_ratio(self) -> float | None:
        """The largest peak ratio of any output; None if nothing could be compared."""
        return max((output.peak_ratio for output in self.outputs), default=None)

    @property
    def failed_levels(self) -> tuple[str, ...]:
        """The levels that fail, in order."""
        return tuple(dict.fromkeys(check.level for check in self.checks if check.status == "fail"))

    @property
    def summary(self) -> str:
        """One line."""
        if self.status == "pass" and self.worst_ratio is not None:
            return f"pass, largest error {self.worst_ratio:.2f} times eager's"
        return f"{self.status}: {self.reasons[0] if self.reasons else ''}"
