"""How wrong artifacts are, in units of what eager float32 honestly is, and what parity would catch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt

from bench.parity.calibrate import Calibration
from bench.parity.report import ParityReport
from bench.verdict.judge import Verdict
from pipeline.report.plots.drawing import (
    BAD,
    BAR,
    GOOD,
    LOG,
    PLAIN,
    UNKNOWN,
    Plot,
    Point,
    by_backend,
    chart,
    colours,
    drawn,
    labels,
    values,
)

_LARGEST_SHOWN_RATIO = 1e6
_STATUSES = {"pass": GOOD, "fail": BAD, "inconclusive": UNKNOWN, "no-reference": PLAIN}


def worst(verdict: Verdict, reports: Mapping[str, ParityReport]) -> Plot | None:
    """The largest error of every artifact in units of eager's own, with the threshold; None if nothing was compared."""
    if not reports:
        return None
    threshold_ratio = next(iter(reports.values())).thresholds.max_peak_ratio
    rows = [(row, row.worst_ratio) for row in verdict.rows if row.worst_ratio is not None]
    if not rows:
        return None
    points: list[Point] = [
        {"backend": row.name, "ratio": min(ratio, _LARGEST_SHOWN_RATIO), "status": row.parity, "label": _spelled(ratio)}
        for row, ratio in rows
    ]
    x = _ratio_axis([point["ratio"] for point in points], threshold_ratio)
    status = alt.Color("status:N", scale=alt.Scale(domain=[*_STATUSES], range=[*_STATUSES.values()]), legend=None)
    base = chart(points, height=alt.Step(BAR)).encode(x=x, y=by_backend(row.name for row, _ in rows))
    return Plot(
        name="errors",
        title="Parity",
        says="The largest error against the model in float64, in units of the largest that eager float32 itself has; "
        f"an artifact may be as wrong as that, and {threshold_ratio:.3g} times that at its single worst element "
        "(dashed).",
        svg=drawn(base.mark_bar(height=10).encode(color=status) + labels(base) + _limit(threshold_ratio)),
        heads=("backend", "parity", "largest error, times eager's"),
        rows=tuple((row.name, row.parity or "", _spelled(ratio)) for row, ratio in rows),
    )


def by_output(reports: Mapping[str, ParityReport]) -> Plot | None:
    """Errors per output: their root mean square and the largest; None if there is but one output, or none of floats."""
    figures = [
        (name, output.name, kind, ratio)
        for name, report in reports.items()
        for output in report.outputs
        for kind, ratio in (("RMS", output.rms_ratio), ("largest", output.peak_ratio))
    ]
    if len({output for _, output, _, _ in figures}) < 2:
        return None
    thresholds = next(iter(reports.values())).thresholds
    points: list[Point] = [
        {"backend": name, "output": output, "kind": kind, "ratio": min(ratio, _LARGEST_SHOWN_RATIO)}
        for name, output, kind, ratio in figures
    ]
    x = _ratio_axis([point["ratio"] for point in points], thresholds.max_peak_ratio)
    base = chart(points, height=alt.Step(BAR)).encode(
        x=x, y=alt.Y("output:N", sort=None, title=None), color=alt.Color("backend:N", sort=[*reports], title=None),
        shape=alt.Shape("kind:N", title=None),
    )  # fmt: skip
    return Plot(
        name="errors-by-output",
        title="Errors of every output",
        says="Errors of each output in units of eager float32's own, their root mean square (at most "
        f"{thresholds.max_rms_ratio:.3g}) and the largest (at most {thresholds.max_peak_ratio:.3g}, dashed).",
        svg=drawn(base.mark_point(size=60) + _limit(thresholds.max_peak_ratio)),
        heads=("backend", "output", "", "times eager's"),
        rows=tuple((name, output, kind, _spelled(ratio)) for name, output, kind, ratio in figures),
    )


def in_ulps(reports: Mapping[str, ParityReport]) -> Plot | None:
    """Errors in roundings of the output's dtype, beside eager's; None where no output is of floats."""
    figures = [
        (name, output.name, output.ulps)
        for name, report in reports.items()
        for output in report.outputs
        if output.ulps is not None
    ]
    if not figures:
        return None
    points: list[Point] = [
        {"row": f"{name}, {output}", "kind": kind, "ulps": value}
        for name, output, ulps in figures
        for kind, value in (("RMS", ulps.rms), ("largest", ulps.peak), ("largest of eager", ulps.eager_peak))
    ]
    rows = list(dict.fromkeys(point["row"] for point in points))
    kinds = ["RMS", "largest", "largest of eager"]
    base = chart(points, height=alt.Step(BAR)).encode(
        x=alt.X("ulps:Q", scale=alt.Scale(type="symlog"), title="roundings (units in the last place)"),
        y=alt.Y("row:N", sort=rows, title=None), color=colours(kinds, "kind"),
    )  # fmt: skip
    return Plot(
        name="ulps",
        title="Errors in roundings",
        says="The same errors in units of the last place of the output's dtype, at the output's own scale.",
        svg=drawn(base.mark_point(filled=True, size=50)),
        heads=("backend", "output", "RMS", "largest", "RMS of eager", "largest of eager"),
        rows=tuple(
            (name, output, *(f"{value:.3g}" for value in (ulps.rms, ulps.peak, ulps.eager_rms, ulps.eager_peak)))
            for name, output, ulps in figures
        ),
    )


def detection(calibration: Calibration | None) -> Plot | None:
    """Faults planted into the model: how strong each must be to be caught; None without a calibration."""
    if calibration is None or not calibration.sensitivities:
        return None
    points: list[Point] = [
        {"fault": fault.name, "ratio": min(max(fault.ratio, 1e-3), _LARGEST_SHOWN_RATIO), "found": _found(fault.seen),
         "label": fault.seen or f"{fault.missed}, not caught"}
        for fault in calibration.sensitivities
    ]  # fmt: skip
    base = chart(points, height=alt.Step(BAR)).encode(
        x=alt.X("ratio:Q", scale=LOG, title="its error, times eager's own (logarithmic)"),
        y=alt.Y("fault:N", sort=None, title=None),
    )
    colour = alt.Color(
        "found:N", scale=alt.Scale(domain=["caught", "not caught"], range=[GOOD, BAD]), legend=alt.Legend(title=None)
    )
    return Plot(
        name="detection",
        by_backend=False,
        title="What parity would catch",
        says="Faults planted into this very model: the weakest of each kind that is caught, and the error that it "
        "makes; of a kind of which none is caught, the strongest that was tried.",
        svg=drawn(base.mark_point(filled=True, size=60).encode(color=colour) + labels(base)),
        heads=("fault", "weakest that is caught", "strongest that is not", "error, times eager's"),
        rows=tuple(
            (fault.name, fault.seen or "-", fault.missed or "-", f"{fault.ratio:.3g}")
            for fault in calibration.sensitivities
        ),
    )


def _found(seen: str | None) -> str:
    return "not caught" if seen is None else "caught"


def _ratio_axis(ratios: list[float], threshold_ratio: float) -> Any:
    """From zero, past the threshold; beyond twenty times that on a scale that is linear near zero only."""
    largest = max(threshold_ratio * 1.25, *(ratio * 1.1 for ratio in ratios))
    kind: Any = "symlog" if largest > 20 * threshold_ratio else "linear"
    scale = alt.Scale(type=kind, domain=[0, largest])
    return alt.X("ratio:Q", scale=scale, title="error / eager float32's own", axis=alt.Axis(tickCount=6))


def _limit(ratio: float) -> Any:
    return alt.Chart(values([{"ratio": ratio}])).mark_rule(strokeDash=[4, 3], color=BAD).encode(x="ratio:Q")


def _spelled(ratio: float) -> str:
    return f"{ratio:.2f}" if math.isfinite(ratio) else "infinite"
