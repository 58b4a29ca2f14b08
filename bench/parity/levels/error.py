"""The error ratio: how far an artifact is from float64, in units of how far eager float32 honestly is.

For each output, over every element of every row,

    ratio = error(artifact, float64) / max(error(eager, float64), error(float64 rounded to the dtype, float64))

once with the root mean square and once with the largest single error. The rounding term is the representation floor: it
keeps the ratio meaningful where eager happens to be exact; below the smallest normal number runtimes may flush to zero.

The rows are one class with pooled denominators, since a single call holds too few elements to know its own error. Every
other case (a size, an extreme, the second call in a row) is a class of its own. It may hold eight equal rows, which are
one observation: its denominators are at least eager's largest error on the rows, and grow with the output's size.

A case on which the artifact failed so is judged anew, row by row, by what equivalents of the model answered to it: see
undetermined.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from bench.parity.answers import Answers
from bench.parity.cases import Case
from bench.parity.check import Check
from bench.parity.levels.level import Context, Level
from bench.parity.levels.undetermined import CaseSpread, RowErrors
from bench.parity.spec import Thresholds
from export.arrays import float_limits

ILL_CONDITIONED = 1e-2
"""Eager's own error, relative to the output, from which float32 says nothing about the model."""


@dataclass(frozen=True, kw_only=True)
class Ulps:
    """Errors of one output in units of the dtype's rounding at the output's own scale (its root mean square)."""

    rms: float
    peak: float
    eager_rms: float
    eager_peak: float


@dataclass
class _Class:
    """Sums over one class of cases."""

    name: str
    squares: dict[str, float] = field(default_factory=lambda: {"artifact": 0.0, "eager": 0.0, "floor": 0.0})
    peaks: dict[str, float] = field(default_factory=lambda: {"artifact": 0.0, "eager": 0.0, "floor": 0.0})
    scale: float = 0.0
    """Sum of squares of the truth."""
    count: int = 0
    tiny: float = 0.0
    worst: str = ""
    """The case of the largest error."""
    by_case: dict[str, tuple[float, float]] = field(default_factory=dict)
    """RMS and largest error of every case."""
    left_count: int = 0
    """Elements whose error is judged elsewhere: row by row."""

    def add(self, answers: Answers) -> None:
        errors = answers.errors()
        if answers.spread is not None:
            self.left_count += errors.pop("artifact").size
        else:
            error = np.abs(errors["artifact"])
            self.by_case[answers.case.name] = (
                float(np.sqrt(np.mean(np.square(error)))) if error.size else 0.0,
                float(error.max(initial=0.0)),
            )
        for who, error in errors.items():
            peak = float(np.abs(error).max(initial=0.0))
            if who == "artifact" and (peak > self.peaks[who] or not self.worst):
                self.worst = answers.case.name
            self.squares[who] += float(np.square(error).sum())
            self.peaks[who] = max(self.peaks[who], peak)
        truth = answers.truth()
        with np.errstate(over="ignore"):
            self.scale += float(np.square(truth).sum())
        self.count += truth.size
        self.tiny = float(float_limits(answers.eager.dtype).tiny)

    @property
    def rms_of_output(self) -> float:
        return math.sqrt(self.scale / self.count) if self.count else 0.0

    def rms_of(self, who: str) -> float:
        count = self.count - (self.left_count if who == "artifact" else 0)
        return math.sqrt(self.squares[who] / count) if count else 0.0


class ErrorTally:
    """Errors of one output, gathered case by case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._rows = _Class("rows")
        self._others: dict[tuple[str, str], _Class] = {}
        self._by_row: dict[tuple[str, str], RowErrors] = {}
        """What was judged row by row, by group and case."""
        self._u = 0.0

    def add(self, answers: Answers) -> None:
        """Add one case; outputs that are no real numbers have no errors."""
        if not answers.floating:
            return
        self._u = float(float_limits(answers.eager.dtype).eps) / 2
        self._of(answers.case).add(answers)
        if answers.spread is not None:
            self._by_row[answers.case.group, answers.case.name] = RowErrors.of(answers)

    def _of(self, case: Case) -> _Class:
        if case.group == "rows":
            return self._rows
        return self._others.setdefault((case.group, case.name), _Class(case.name))

    @property
    def rms_ratio(self) -> float:
        """The RMS error of the rows, over eager's own."""
        return max(self._ratios(self._rows)[0], *(errors.rms_ratio for errors in self._row_errors("rows")), 0.0)

    @property
    def peak_ratio(self) -> float:
        """The largest error of the rows, over eager's own."""
        return max(self._ratios(self._rows)[1], *(errors.peak_ratio for errors in self._row_errors("rows")), 0.0)

    @property
    def peak_case(self) -> str:
        """The case that holds the largest error of the rows."""
        return self._rows.worst

    @property
    def max_abs_error(self) -> float:
        """The largest error of the rows."""
        return self._rows.peaks["artifact"]

    @property
    def compared_count(self) -> int:
        """Elements compared, of all cases."""
        return self._rows.count + sum(sums.count for sums in self._others.values())

    @property
    def allowed_peak(self) -> float:
        """The unit of the peak ratio: eager's largest error on the rows, or the floor."""
        return max(self._rows.peaks["eager"], self._rows.peaks["floor"], self._rows.tiny)

    def allowed(self, case: Case) -> float:
        """The unit of the peak ratio for one case that was added."""
        return self._units(self._of(case))[1]

    def ulps(self) -> Ulps | None:
        """Statistics over the rows; None where there is no scale."""
        unit = 2 * self._u * self._rows.rms_of_output
        if not unit:
            return None
        rows = self._rows
        return Ulps(
            rms=rows.rms_of("artifact") / unit,
            peak=rows.peaks["artifact"] / unit,
            eager_rms=rows.rms_of("eager") / unit,
            eager_peak=rows.peaks["eager"] / unit,
        )

    def checks(self, thresholds: Thresholds) -> list[Check]:
        """The checks of the rows, and of every group of other cases."""
        groups = dict.fromkeys(group for group, _ in self._others)
        return [
            *self.row_checks(thresholds),
            *(check for group in groups for check in self.group_checks(group, thresholds)),
        ]

    def row_checks(self, thresholds: Thresholds) -> list[Check]:
        """The check of the rows; inconclusive where float32 says nothing about the model."""
        if not self._rows.count:
            return []
        check = self._check("error", [self._rows], thresholds)
        condition = self._rows.rms_of("eager") / (self._rows.rms_of_output or math.inf)
        if condition > ILL_CONDITIONED and check.status == "pass":
            message = (
                f"{self.name}: eager float32 itself is off by {condition:.2g} of the output's size: "
                "the model is ill-conditioned in float32, nothing can be proved"
            )
            check = Check(
                level="error",
                subject=self.name,
                status="inconclusive",
                message=message,
                value=condition,
                limit=ILL_CONDITIONED,
            )
        return [check]

    def group_checks(self, group: str, thresholds: Thresholds) -> list[Check]:
        """The check of another group's cases; none if there are none, or no rows to compare with."""
        classes = [sums for (name, _), sums in self._others.items() if name == group]
        return [self._check(group, classes, thresholds)] if classes and self._rows.count else []

    def case_spreads(self) -> list[CaseSpread]:
        """The cases that were judged row by row."""
        return [
            CaseSpread(
                output=self.name,
                group=group,
                case=case,
                largest_unit=errors.largest_unit,
                undetermined_count=len(errors.undetermined) + errors.unsettled_count,
            )
            for (group, case), errors in self._by_row.items()
        ]

    def _row_errors(self, group: str) -> list[RowErrors]:
        return [errors for (name, _), errors in self._by_row.items() if name == group]

    def _check(self, level: str, classes: list[_Class], thresholds: Thresholds) -> Check:
        """The worst of the classes, by how far each ratio exceeds its own threshold."""
        faults: list[tuple[str, str]] = []
        for sums in classes:
            rms, peak = self._ratios(sums)
            where = "" if level == "error" else f" ({sums.name})"
            if not rms <= thresholds.max_rms_ratio:
                fault = (
                    f"{self.name}{where}: RMS error is {rms:.3g} times eager's own, "
                    f"at most {thresholds.max_rms_ratio:.3g} passes"
                )
                faults.append((sums.worst, fault))
            if not peak <= thresholds.max_peak_ratio:
                fault = (
                    f"{self.name} ({sums.worst}): largest error is {peak:.3g} times eager's own "
                    f"({sums.peaks['artifact']:.3g}), at most {thresholds.max_peak_ratio:.3g} passes"
                )
                faults.append((sums.worst, fault))
        by_row = self._row_errors("rows" if level == "error" else level)
        faults += [(errors.case, fault) for errors in by_row for fault in errors.faults(thresholds)]
        worst = max(classes, key=lambda sums: max(self._ratios(sums)))
        rms, peak = self._ratios(worst)
        rms, peak = (
            (max(rms, *(e.rms_ratio for e in by_row)), max(peak, *(e.peak_ratio for e in by_row)))
            if by_row
            else (rms, peak)
        )
        more = f"; and {len(faults) - 1} more like it" if len(faults) > 1 else ""
        fine = f"RMS {rms:.2f}, largest {peak:.2f} times eager's" + (f" ({worst.name})" if len(classes) > 1 else "")
        fine += "".join(f"; {errors.summary}" for errors in by_row)
        cases = dict.fromkeys([*(case for case, _ in faults), *self._exceeding(classes, thresholds)])
        return Check(
            level=level,
            subject=self.name,
            status="fail" if faults else "pass",
            message=faults[0][1] + more if faults else fine,
            cases=tuple(case for case in cases if case) if faults else (),
            value=peak,
            limit=thresholds.max_peak_ratio,
        )

    def _exceeding(self, classes: list[_Class], thresholds: Thresholds) -> list[str]:
        """The cases whose own errors exceed a threshold, the worst first."""
        exceeding = []
        for sums in classes:
            rms_unit, peak_unit = self._units(sums)
            for case, (rms, peak) in sums.by_case.items():
                excess = max(
                    _ratio(rms, rms_unit) / thresholds.max_rms_ratio,
                    _ratio(peak, peak_unit) / thresholds.max_peak_ratio,
                )
                if not excess <= 1:
                    exceeding.append((-excess, case))
        return [case for _, case in sorted(exceeding)]

    def _ratios(self, sums: _Class) -> tuple[float, float]:
        rms_unit, peak_unit = self._units(sums)
        return _ratio(sums.rms_of("artifact"), rms_unit), _ratio(sums.peaks["artifact"], peak_unit)

    def _units(self, sums: _Class) -> tuple[float, float]:
        """What an RMS and a largest error of 1 are."""
        rms_unit = max(sums.rms_of("eager"), sums.rms_of("floor"), sums.tiny)
        peak_unit = max(sums.peaks["eager"], sums.peaks["floor"], sums.tiny)
        if sums is not self._rows and self._rows.rms_of_output:
            size = max(1.0, sums.rms_of_output / self._rows.rms_of_output)
            rms_unit = max(rms_unit, size * self.allowed_peak)
            peak_unit = max(peak_unit, size * self.allowed_peak)
        return rms_unit, peak_unit


def _ratio(error: float, unit: float) -> float:
    """No error is no error whatever the unit; an error where nothing may differ is infinite."""
    if error == 0.0:
        return 0.0
    return error / unit if unit > 0.0 else math.inf


class Error(Level):
    """The error of the rows, in units of eager's own."""

    name = "error"
    meaning = "error against float64, in units of eager's own"
    exact = True

    def checks(self, context: Context) -> Iterable[Check]:
        """The error of every output; none without a float64 answer."""
        if context.has_reference:
            for output in context.outputs:
                yield from context.errors[output].row_checks(context.limits)
