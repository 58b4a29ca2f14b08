"""The record of parity: every level's findings about one artifact, and the verdict that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bench.parity.check import Check
from bench.parity.levels.decisions import Flips
from bench.parity.levels.error import Ulps
from bench.parity.levels.undetermined import CaseSpread
from bench.parity.spec import ParitySpec, Thresholds
from bench.parity.worst import Worst
from export.backend import LoadOptions, Witness
from export.record import OMITTED, Observed, Record

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
    spreads: tuple[CaseSpread, ...] = field(default=(), metadata=OMITTED)
    """Cases that were judged by equivalents of the model, since the artifact failed them by eager's error alone."""
    worst: Worst | None = field(default=None, metadata=OMITTED)
    """Where a finding that fails is worst; None if none fails, or none by the values of a call."""
    outputs: tuple[OutputParity, ...]
    tested_sizes: dict[str, TestedSizes]
    """By symbol."""
    witness: Witness
    observed: Observed

    def __post_init__(self) -> None:
        """The verdict is the one that the findings give, whoever wrote it down.

        Raises:
            ValueError: it is not, with the contradiction.
        """
        if (contradiction := self._contradiction()) is not None:
            raise ValueError(f"the report says {self.status}, but {contradiction}")

    def _contradiction(self) -> str | None:
        statuses = {check.status for check in self.checks}
        if ("fail" in statuses) is not (self.status == "fail"):
            return f"{'a' if 'fail' in statuses else 'no'} finding fails"
        if self.status != "pass":
            return None
        if "inconclusive" in statuses or self.reasons:
            return "a finding is inconclusive"
        return next(filter(None, map(self._contradicted, self.outputs)), None)

    def _contradicted(self, output: OutputParity) -> str | None:
        """How an output's figures contradict the finding about its error; outputs that are not floats have none."""
        ratios, limits = (output.rms_ratio, output.peak_ratio), self.thresholds
        check = next((check for check in self.checks if (check.level, check.subject) == ("error", output.name)), None)
        if check is None:
            return f"nothing was found about the error of {output.name}, which is {ratios}" if any(ratios) else None
        if (check.value, check.limit) != (output.peak_ratio, limits.max_peak_ratio):
            return f"the finding about the error of {output.name} is of another figure than {output.peak_ratio:g}"
        exceeded = output.rms_ratio > limits.max_rms_ratio or output.peak_ratio > limits.max_peak_ratio
        return f"{output.name} has the error ratios {ratios}" if exceeded and check.status != "reported" else None

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
