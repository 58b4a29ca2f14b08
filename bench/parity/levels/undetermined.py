"""Errors of one case row by row, in units of what float32 itself leaves undetermined in that very row.

The unit of a row is the largest of eager's error, half a rounding, and the spread of equivalents of the model: the
program with its sums in another order, in elementary operators, with noise of one rounding on every value (Monte Carlo
arithmetic: Parker, 1997), in other batches. Rows on which equivalents differ by a share of the output itself say
nothing: they are named and left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.parity.answers import Answers
from bench.parity.cases import Values
from bench.parity.spec import Thresholds
from export.arrays import float_limits

UNDETERMINED = 0.05
"""The unit of a row, as a share of the row's own size, from which float32 says nothing about it."""
_ROWS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class CaseSpread:
    """What equivalents of the model leave undetermined of one output in one case."""

    output: str
    group: str
    case: str
    largest_unit: float
    """The largest unit of a row: what an error of 1 is there."""
    undetermined_count: int
    """Rows, and single elements, of which float32 says nothing."""


@dataclass(frozen=True, kw_only=True)
class RowErrors:
    """One output in one case."""

    output: str
    case: str
    rms_ratio: float
    """Root mean square over rows of each row's RMS error in its own unit."""
    peak_ratio: float
    """The largest error of a row in its own unit."""
    worst_row: int
    rows_count: int
    undetermined: tuple[int, ...]
    """Rows that are left out."""
    unsettled_count: int
    """Elements on which equivalents do not agree whether they are numbers."""
    largest_unit: float
    """The largest unit of any row."""

    @classmethod
    def of(cls, answers: Answers) -> RowErrors:
        """Judge every row of a case about which equivalents were asked."""
        assert answers.spread is not None
        valid = answers.comparable
        truth = np.where(valid, answers.wide, 0.0).astype(np.float64)
        got, eager = (_differences(values, truth, valid) for values in (answers.got, answers.eager))
        limits = float_limits(answers.eager.dtype)
        half = float(limits.eps) / 4 * np.abs(truth)
        spread = np.where(valid, answers.spread.peak, 0.0)
        units = np.maximum(np.maximum(_peak(eager), _peak(spread)), np.maximum(_peak(half), float(limits.tiny)))
        rms_units = np.maximum(
            np.maximum(_rms(eager, valid), answers.spread.rms), np.maximum(_rms(half, valid), float(limits.tiny))
        )
        unknown = units > UNDETERMINED * np.maximum(_rms(truth, valid), float(limits.tiny))
        peaks = np.where(unknown, 0.0, _peak(got) / units)
        squares = np.square(np.where(unknown, 0.0, _rms(got, valid) / rms_units))
        known_count = int((~unknown).sum())
        return cls(
            output=answers.output,
            case=answers.case.name,
            rms_ratio=float(np.sqrt(squares.sum() / known_count)) if known_count else 0.0,
            peak_ratio=float(peaks.max(initial=0.0)),
            worst_row=int(peaks.argmax()) if peaks.size else 0,
            rows_count=len(peaks),
            undetermined=tuple(int(row) for row in np.flatnonzero(unknown)),
            unsettled_count=int((~np.isfinite(answers.spread.peak)).sum()),
            largest_unit=float(units.max(initial=0.0)),
        )

    def faults(self, thresholds: Thresholds) -> list[str]:
        """What is wrong, row by row."""
        where = f"{self.output} ({self.case}), by what equivalents of the model leave undetermined in each row"
        faults = []
        if not self.rms_ratio <= thresholds.max_rms_ratio:
            faults.append(
                f"{where}: RMS error is {self.rms_ratio:.3g} units, at most {thresholds.max_rms_ratio:.3g} passes"
            )
        if not self.peak_ratio <= thresholds.max_peak_ratio:
            faults.append(
                f"{where}: largest error is {self.peak_ratio:.3g} units, in row {self.worst_row}, "
                f"at most {thresholds.max_peak_ratio:.3g} passes"
            )
        return faults

    @property
    def summary(self) -> str:
        """What was judged so, for a row that passes."""
        left_out = ""
        if self.undetermined:
            shown = ", ".join(map(str, self.undetermined[:_ROWS_SHOWN])) + (
                ", ..." if len(self.undetermined) > _ROWS_SHOWN else ""
            )
            left_out = (
                f", {len(self.undetermined)} of {self.rows_count} rows ({shown}) undetermined in float32 and left out"
            )
        return f"{self.case} judged by equivalents of the model on that very call{left_out}"


def _differences(values: Values, truth: Values, valid: Values) -> Values:
    return np.asarray(np.abs(np.where(valid, values, 0.0).astype(np.float64) - truth))


def by_row(values: Values) -> Values:
    """``(rows, elements)``; what has no dimension is one row."""
    return values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(-1, 1)


def _peak(values: Values) -> Values:
    return np.asarray(np.abs(by_row(values)).max(-1, initial=0.0))


def _rms(values: Values, valid: Values) -> Values:
    counts = np.maximum(by_row(valid).sum(-1), 1)
    return np.asarray(np.sqrt(np.square(by_row(values)).sum(-1) / counts))
