"""The plots of the report, drawn by Vega-Lite into SVG: they need no script, and work offline and on paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from bench.verdict.figures import Speed
from bench.verdict.judge import Row, Verdict
from pipeline.report import text

_WIDTH = 620
_FONT = "system-ui, sans-serif"
_GOOD, _BAD, _PLAIN = "#1a7f4b", "#b3261e", "#9aa7b5"
_LARGEST_SHOWN_RATIO = 1e6
_ROOM_FOR_LABELS = 1.2


def latency_svg(verdict: Verdict) -> Markup | None:
    """Time per call of every measured artifact, one panel per batch size; None if nothing was measured."""
    points = [
        _latency_point(row, speed, verdict) for row in verdict.rows for speed in row.speeds if speed.spoilt is None
    ]
    if not points:
        return None
    batches = sorted({point["batch_rows"] for point in points})
    return _svg(alt.vconcat(*[_latency_panel(points, rows, verdict) for rows in batches], spacing=18))


def parity_svg(verdict: Verdict, threshold_ratio: float) -> Markup | None:
    """The largest error of every artifact in units of eager's own, with the threshold; None if nothing was compared."""
    points = [_parity_point(row, row.worst_ratio) for row in verdict.rows if row.worst_ratio is not None]
    if not points:
        return None
    largest = max(threshold_ratio * 1.25, *(point["ratio"] * 1.1 for point in points))
    symlog = alt.Scale(type="symlog", domain=[0, largest])
    linear = alt.Scale(type="linear", domain=[0, largest])
    x = alt.X(
        "ratio:Q",
        scale=symlog if largest > 20 * threshold_ratio else linear,
        title="largest error / eager float32's own largest error",
        axis=alt.Axis(tickCount=6),
    )
    y = alt.Y("backend:N", sort=[row.name for row in verdict.rows], title=None)
    status = alt.Color("status:N", scale=alt.Scale(domain=["pass", "fail"], range=[_GOOD, _BAD]), legend=None)
    base = alt.Chart(_values(points), width=_WIDTH, height=alt.Step(20)).encode(x=x, y=y)
    limit = alt.Chart(_values([{"ratio": threshold_ratio}])).mark_rule(strokeDash=[4, 3], color=_BAD)
    return _svg(base.mark_bar(height=10).encode(color=status) + _labels(base) + limit.encode(x="ratio:Q"))


def training_svg(figures: Sequence[Mapping[str, float | None]]) -> Markup | None:
    """The loss of every epoch, in training and on the validation split; None if there are fewer than two epochs."""
    points = [
        {"epoch": line["epoch"], "loss": line[name], "split": name.removesuffix("_loss")}
        for line in figures
        for name in ("train_loss", "validation_loss")
        if line.get(name) is not None
    ]
    if len({point["epoch"] for point in points}) < 2:
        return None
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1))
    y = alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False))
    kinds = [kind for kind in ("train", "validation") if kind in {point["split"] for point in points}]
    colours = alt.Scale(domain=kinds, range=[_PLAIN, _GOOD])
    split = alt.Color("split:N", scale=colours, title=None)
    chart = alt.Chart(_values(points), width=_WIDTH, height=160)
    return _svg(chart.mark_line(point=True).encode(x=x, y=y, color=split))


def _latency_panel(points: list[dict[str, Any]], batch_rows: int, verdict: Verdict) -> Any:
    """One batch size on a scale of its own that begins at zero: lengths of bars compare as times do."""
    panel_points = [point for point in points if point["batch_rows"] == batch_rows]
    scale = alt.Scale(domain=[0, max(point["us"] for point in panel_points) * _ROOM_FOR_LABELS])
    x = alt.X("us:Q", scale=scale, title="microseconds per call, median", axis=alt.Axis(tickCount=6))
    y = alt.Y("backend:N", sort=[row.name for row in verdict.rows], title=None)
    winner = alt.Color("winner:N", scale=alt.Scale(domain=[False, True], range=[_PLAIN, _GOOD]), legend=None)
    chart = alt.Chart(_values(panel_points), width=_WIDTH, height=alt.Step(20), title=f"batch {batch_rows}")
    base = chart.encode(x=x, y=y)
    return base.mark_bar(height=10).encode(color=winner) + _labels(base)


def _latency_point(row: Row, speed: Speed, verdict: Verdict) -> dict[str, Any]:
    return {
        "backend": row.name,
        "batch_rows": speed.batch_rows,
        "us": speed.median_s * 1e6,
        "label": text.speed(speed),
        "winner": row.name == verdict.winner,
    }


def _parity_point(row: Row, ratio: float) -> dict[str, Any]:
    return {
        "backend": row.name,
        "ratio": min(ratio, _LARGEST_SHOWN_RATIO),
        "status": row.parity,
        "label": f"{ratio:.2f}" if math.isfinite(ratio) else "infinite",
    }


def _labels(base: alt.Chart) -> Any:
    return base.mark_text(align="left", dx=6, font=_FONT).encode(text="label:N")


def _values(points: list[dict[str, Any]]) -> Any:
    return alt.Data(values=points)  # type: ignore[no-untyped-call]


def _svg(chart: Any) -> Markup:
    """The drawing, marked as HTML that is not to be escaped: Vega has escaped the texts in it."""
    plain = (
        chart.properties(padding={"left": 24, "right": 24, "top": 4, "bottom": 4})
        .configure_view(stroke=None)
        .configure_axis(grid=False, labelFont=_FONT, titleFont=_FONT, titleFontWeight="normal")
        .configure_title(anchor="start", font=_FONT, fontSize=12)
    )
    return Markup(vl_convert.vegalite_to_svg(plain.to_dict()))  # noqa: S704
