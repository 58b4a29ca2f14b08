"""The two plots of the report, drawn by Vega-Lite into SVG: they need no script, and work offline and on paper."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import vl_convert

from bench.verdict import Verdict
from pipeline import text

_WIDTH = 620
_FONT = "system-ui, sans-serif"


def latency_svg(verdict: Verdict) -> str | None:
    """Time per call of every measured artifact, one panel per batch size; None if nothing was measured."""
    points = [
        {
            "backend": row.name,
            "batch": f"batch {speed.batch_rows}",
            "us": speed.median_s * 1e6,
            "label": text.speed(speed),
            "winner": row.name == verdict.winner,
        }
        for row in verdict.rows
        for speed in row.speeds
    ]
    if not points:
        return None
    order = [row.name for row in verdict.rows]
    panels = [f"batch {rows}" for rows in text.batches(verdict.rows)]
    base = alt.Chart(width=_WIDTH, height=alt.Step(22)).encode(
        y=alt.Y("backend:N", sort=order, title=None),
        x=alt.X("us:Q", scale=alt.Scale(type="log"), title="microseconds per call (log scale, median)"),
    )
    bars = base.mark_bar(height=10).encode(
        x=alt.X("us:Q", scale=alt.Scale(type="log", domainMin=min(p["us"] for p in points) / 2), title="microseconds per call (log scale, median)"),
        color=alt.Color("winner:N", scale=alt.Scale(domain=[False, True], range=["#9aa7b5", "#1a7f4b"]), legend=None),
    )
    labels = base.mark_text(align="left", dx=6, font=_FONT).encode(text="label:N")
    chart = (
        alt.layer(bars, labels, data=alt.Data(values=points))
        .facet(row=alt.Row("batch:N", sort=panels, title=None, header=alt.Header(labelOrient="top", labelAnchor="start", labelFontWeight="bold")))
        .resolve_scale(x="independent")
    )
    return _svg(chart)


def parity_svg(verdict: Verdict, threshold_ratio: float) -> str | None:
    """The largest error of every artifact in units of eager's own, with the threshold; None if nothing was compared."""
    bars = [
        {
            "backend": row.name,
            "ratio": min(row.worst_ratio, 1e6),
            "status": row.parity,
            "label": f"{row.worst_ratio:.2f}" if math.isfinite(row.worst_ratio) else "infinite",
        }
        for row in verdict.rows
        if row.worst_ratio is not None
    ]
    if not bars:
        return None
    order = [row.name for row in verdict.rows]
    largest = max(threshold_ratio * 1.25, *(bar["ratio"] * 1.1 for bar in bars))  # type: ignore[operator]  # a float by now
    kind = "symlog" if largest > 20 * threshold_ratio else "linear"
    x = alt.X("ratio:Q", scale=alt.Scale(type=kind, domain=[0, largest]), title="largest error / eager float32's own largest error")
    base = alt.Chart(alt.Data(values=bars), width=_WIDTH, height=alt.Step(22)).encode(y=alt.Y("backend:N", sort=order, title=None), x=x)
    colour = alt.Color("status:N", scale=alt.Scale(domain=["pass", "fail"], range=["#1a7f4b", "#b3261e"]), legend=None)
    marks = base.mark_bar(height=10).encode(color=colour)
    labels = base.mark_text(align="left", dx=6, font=_FONT).encode(text="label:N")
    line = alt.Chart(alt.Data(values=[{"ratio": threshold_ratio}])).mark_rule(strokeDash=[4, 3], color="#b3261e").encode(x="ratio:Q")
    return _svg(marks + labels + line)


def _svg(chart: Any) -> str:
    configured = chart.configure_view(stroke=None).configure_axis(grid=False, labelFont=_FONT, titleFont=_FONT, titleFontWeight="normal")
    svg: str = vl_convert.vegalite_to_svg(configured.to_dict())
    return svg
