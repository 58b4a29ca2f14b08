"""What an artifact costs besides the time of a call: starting, room, and how far it is from what the machine allows."""

from __future__ import annotations

import altair as alt

from bench.verdict.judge import Verdict
from pipeline.report import numbers
from pipeline.report.plots.drawing import BAR, LOG, PLAIN, Plot, Point, by_backend, chart, colours, drawn, labels
from pipeline.report.plots.times import stated

_PARTS = ("interpreter", "import", "load", "first call")


def start_up(verdict: Verdict) -> Plot | None:
    """The parts of a cold start, one after the other; None if none was measured."""
    cold = [(row.name, row.cold) for row in verdict.rows if row.cold]
    if not cold:
        return None
    parts_s = {name: (it.start_s, it.import_s, it.load_s, it.first_call_s) for name, it in cold}
    points: list[Point] = [
        {"backend": name, "part": part, "s": seconds, "order": order}
        for name, parts in parts_s.items()
        for order, (part, seconds) in enumerate(zip(_PARTS, parts, strict=True))
    ]
    x = alt.X("s:Q", title="seconds from no process to the first answer")
    base = chart(points, height=alt.Step(BAR)).encode(
        x=x, y=by_backend(parts_s), color=colours(_PARTS, "part"), order="order:O"
    )
    return Plot(
        name="start-up",
        title="Start-up",
        says="Seconds from no process to the first answer, files in the page cache: the interpreter, importing the "
        "runtime, loading the artifact, its first call.",
        svg=drawn(base.mark_bar(height=10)),
        heads=("backend", *_PARTS, "in all"),
        rows=tuple((name, *map(numbers.seconds, parts_s[name]), numbers.seconds(it.total_s)) for name, it in cold),
    )


def room(verdict: Verdict) -> Plot | None:
    """Peak memory and size of the files; None if no memory was measured."""
    rows = [(row, row.cold.peak_bytes) for row in verdict.rows if row.cold and row.cold.peak_bytes]
    if not rows:
        return None
    memory: list[Point] = [
        {"backend": row.name, "mb": peak_bytes / 1e6, "label": numbers.size(peak_bytes)} for row, peak_bytes in rows
    ]
    sizes: list[Point] = [
        {"backend": row.name, "mb": (row.size_bytes or 0) / 1e6, "label": numbers.size(row.size_bytes)}
        for row, _ in rows
    ]
    names = [row.name for row, _ in rows]
    panels = []
    for title, points in (("peak memory of a process that holds it alone", memory), ("size of its files", sizes)):
        largest = max(point["mb"] for point in points) or 1.0
        x = alt.X("mb:Q", title="megabytes", scale=alt.Scale(domain=[0, largest * 1.2]), axis=alt.Axis(tickCount=6))
        base = chart(points, height=alt.Step(BAR), title=title).encode(x=x, y=by_backend(names))
        panels.append(base.mark_bar(height=10, color=PLAIN) + labels(base))
    return Plot(
        name="room",
        title="Memory and size",
        says="The peak of the resident set of a process that holds the artifact alone, after a call at every batch "
        "size, and what its files take on disk.",
        svg=drawn(alt.vconcat(*panels, spacing=18)),
        heads=("backend", "peak memory", "size"),
        rows=tuple((row.name, numbers.size(peak), numbers.size(row.size_bytes)) for row, peak in rows),
    )


def roofline(verdict: Verdict) -> Plot | None:
    """Times per call and the floor below them; None where no work could be counted."""
    timed = [(row, speed, speed.least_s) for row, speed in stated(verdict) if speed.least_s is not None]
    if not timed:
        return None
    points: list[Point] = [
        {"backend": row.name, "batch": speed.batch_rows, "us": speed.median_s * 1e6} for row, speed, _ in timed
    ]
    floors: list[Point] = [{"batch": speed.batch_rows, "us": least_s * 1e6} for _, speed, least_s in timed]
    x = alt.X("batch:Q", scale=LOG, title="rows per batch (logarithmic)")
    y = alt.Y("us:Q", scale=LOG, title="microseconds per call (logarithmic)")
    names = list(dict.fromkeys(row.name for row, _, _ in timed))
    lines = chart(points).mark_line(point=True).encode(x=x, y=y, color=colours(names))
    least = chart(floors).mark_line(strokeDash=[4, 3], color=PLAIN).encode(x=x, y=alt.Y("us:Q", aggregate="min"))
    return Plot(
        name="roofline",
        title="How far from the machine's limit",
        says="The time of a call over the rows of a batch; dashed the floor, the least that this machine's "
        "arithmetic, memory or a bare call allow.",
        svg=drawn(lines + least),
        heads=("backend", "batch", "time", "floor", "reached", "bound by"),
        rows=tuple(
            (row.name, str(speed.batch_rows), numbers.seconds(speed.median_s), numbers.seconds(least_s),
             numbers.share(speed.efficiency), speed.binds or "")
            for row, speed, least_s in timed
        ),
    )  # fmt: skip
