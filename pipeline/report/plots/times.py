"""What a call takes: per batch size, as a ratio to eager, and how it is distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from bench.stats.quantiles import Percentile, percentile
from bench.timing.measurement import Measurement
from bench.verdict.figures import Speed
from bench.verdict.judge import Row, Verdict
from pipeline.report import numbers, text
from pipeline.report.plots.drawing import (
    BAR,
    GOOD,
    LARGEST,
    LOG,
    PLAIN,
    SMALLEST,
    Plot,
    Point,
    by_backend,
    chart,
    colours,
    drawn,
    labels,
    values,
)

_ROOM_FOR_LABELS = 1.2
_STEPS = 200
"""So many points draw a distribution."""
_MARKED = (0.5, 0.99, 0.999)

Timed = tuple[Row, Speed]


def latency(verdict: Verdict) -> Plot | None:
    """Time per call of every measured artifact, one panel per batch size; None if nothing was measured."""
    timed = stated(verdict)
    if not timed:
        return None
    batches = sorted({speed.batch_rows for _, speed in timed})
    panels = [_latency_panel([(row, speed) for row, speed in timed if speed.batch_rows == rows]) for rows in batches]
    return Plot(
        name="latency",
        title="Latency",
        says="Median time of a call in microseconds, and how many times faster than eager; each batch size has a "
        "scale of its own that begins at zero.",
        svg=drawn(alt.vconcat(*panels, spacing=18)),
        heads=("backend", "batch", "time per call"),
        rows=tuple((row.name, str(speed.batch_rows), text.speed(speed)) for row, speed in timed),
    )


def over_batch(verdict: Verdict) -> Plot | None:
    """Rows per second over the time of a call, a line per artifact; None with fewer than two batch sizes."""
    timed = stated(verdict)
    if len({speed.batch_rows for _, speed in timed}) < 2:
        return None
    front = _front(timed)
    points: list[Point] = [
        {"backend": row.name, "us": speed.median_s * 1e6, "rows": speed.rows_per_s, "batch": speed.batch_rows,
         "label": str(speed.batch_rows)}
        for row, speed in timed
    ]  # fmt: skip
    on_front = [point for point, pair in zip(points, timed, strict=True) if pair in front]
    x = alt.X("us:Q", scale=LOG, title="microseconds per call, median (logarithmic)")
    y = alt.Y("rows:Q", scale=LOG, title="rows per second (logarithmic)")
    names = list(dict.fromkeys(row.name for row, _ in timed))
    base = chart(points).encode(x=x, y=y, color=colours(names))
    ring = chart(on_front).mark_point(size=160, color=GOOD, strokeWidth=2).encode(x=x, y=y)
    whole = base.mark_line(point=True).encode(order="batch:Q") + labels(base) + ring
    return Plot(
        name="throughput",
        title="Throughput over latency",
        says="Rows per second against the time of a call, a point per batch size (its number): up is more, left is "
        "sooner. Of what may ship, no other point is both more and sooner than a ringed one.",
        svg=drawn(whole),
        heads=("backend", "batch", "time per call", "rows per second", "ringed"),
        rows=tuple(
            (row.name, str(speed.batch_rows), numbers.seconds(speed.median_s), f"{speed.rows_per_s:,.0f}",
             "yes" if (row, speed) in front else "")
            for row, speed in timed
        ),
    )  # fmt: skip


def ratios(verdict: Verdict) -> Plot | None:
    """The time of every artifact over eager's, with its interval; None if nothing was compared."""
    compared = [(row, speed, speed.to_eager) for row, speed in stated(verdict) if speed.to_eager is not None]
    if not compared:
        return None
    points: list[Point] = [
        {"backend": row.name, "batch": f"batch {speed.batch_rows}", "ratio": effect.ratio.value,
         "low": effect.ratio.low or SMALLEST, "high": effect.ratio.high or LARGEST, "comparison": effect.comparison}
        for row, speed, effect in compared
    ]  # fmt: skip
    noises = [effect.noise_ratio for _, _, effect in compared if effect.noise_ratio is not None]
    noise = max(noises, default=0.0)
    y = by_backend(dict.fromkeys(row.name for row, _, _ in compared))
    batches = list(dict.fromkeys(point["batch"] for point in points))
    offset, colour = alt.YOffset("batch:N", sort=batches), colours(batches, "batch")
    base = chart(points, height=alt.Step(BAR / 2)).encode(y=y, yOffset=offset)
    x = alt.X("ratio:Q", scale=LOG, title="its time over eager's (logarithmic)")
    floor = alt.Chart(values([{"low": 1 / (1 + noise), "high": 1 + noise}])).mark_rect(color=PLAIN, opacity=0.3)
    layers = (
        floor.encode(x=alt.X("low:Q", scale=LOG), x2="high:Q"),
        alt.Chart(values([{"ratio": 1}])).mark_rule(color=PLAIN).encode(x=x),
        base.mark_rule().encode(x=alt.X("low:Q", scale=LOG), x2="high:Q", color=colour),
        base.mark_point(filled=True, size=50).encode(x=x, color=colour),
    )
    return Plot(
        name="ratios",
        title="Against eager",
        says="The time of a call over eager's, with its interval over processes, cut off at a thousandth and a "
        "thousand; left of 1 is faster. In the shaded band lies what an artifact differed from itself.",
        svg=drawn(alt.layer(*layers)),
        heads=("backend", "batch", "ratio", "noise", "verdict"),
        rows=tuple(
            (row.name, str(speed.batch_rows), effect.ratio.spelled(3), numbers.share(effect.noise_ratio),
             effect.comparison)
            for row, speed, effect in compared
        ),
    )  # fmt: skip


def distribution(verdict: Verdict, measurements: Mapping[str, Measurement]) -> Plot | None:
    """Which share of the calls at the smallest batch was answered within a time; None if nothing was measured."""
    timed = stated(verdict)
    if not timed:
        return None
    batch_rows = min(speed.batch_rows for _, speed in timed)
    samples = {
        row.name: _series(measurements[row.name], batch_rows)
        for row, speed in timed
        if speed.batch_rows == batch_rows and row.name in measurements
    }
    if not samples:
        return None
    points: list[Point] = [
        {"backend": name, "us": time_s * 1e6, "share": share}
        for name, series in samples.items()
        for share, time_s in _steps(series.times_s)
    ]
    marks: list[Point] = [
        {"backend": name, "us": reached.value_s * 1e6, "share": share}
        for name, series in samples.items()
        for share, reached in series.percentiles.items()
    ]
    x = alt.X("us:Q", scale=LOG, title="microseconds per call (logarithmic)")
    y = alt.Y("share:Q", title="share of samples", axis=alt.Axis(format="%"))
    colour = colours(list(samples))
    lines = chart(points).mark_line(interpolate="step-after").encode(x=x, y=y, color=colour)
    whole = lines + chart(marks).mark_point(filled=True, size=40).encode(x=x, y=y, color=colour)
    return Plot(
        name="distribution",
        title="How evenly it answers",
        says=f"Which share of the samples at batch {batch_rows} took at most so long: a steep line is an even answer. "
        "Samples are single calls, where these last long enough to be timed, else means of blocks; p50, p99 and "
        "p99.9 of calls are marked where there are enough.",
        svg=drawn(whole),
        heads=("backend", "samples", "of", "least", *(f"p{share * 100:g}" for share in _MARKED), "most"),
        rows=tuple(
            (name, str(len(series.times_s)), series.of, numbers.seconds(series.times_s[0]),
             *(numbers.seconds(series.percentiles[share].value_s) if share in series.percentiles else "-"
               for share in _MARKED),
             numbers.seconds(series.times_s[-1]))
            for name, series in samples.items()
        ),
    )  # fmt: skip


def stated(verdict: Verdict) -> list[Timed]:
    """What has a time of its own."""
    return [(row, speed) for row in verdict.rows for speed in row.speeds if speed.spoilt is None]


def _latency_panel(timed: Sequence[Timed]) -> Any:
    """One batch size on a scale of its own that begins at zero: lengths of bars compare as times do."""
    points: list[Point] = [
        {"backend": row.name, "us": speed.median_s * 1e6, "label": text.speed(speed), "fastest": False}
        for row, speed in timed
    ]
    min(points, key=lambda point: point["us"])["fastest"] = True
    scale = alt.Scale(domain=[0, max(point["us"] for point in points) * _ROOM_FOR_LABELS])
    x = alt.X("us:Q", scale=scale, title="microseconds per call, median", axis=alt.Axis(tickCount=6))
    fastest = alt.Color("fastest:N", scale=alt.Scale(domain=[False, True], range=[PLAIN, GOOD]), legend=None)
    panel = chart(points, height=alt.Step(BAR), title=f"batch {timed[0][1].batch_rows}")
    base = panel.encode(x=x, y=by_backend(row.name for row, _ in timed))
    return base.mark_bar(height=10).encode(color=fastest) + labels(base)


def _front(timed: Sequence[Timed]) -> list[Timed]:
    """What may ship and no other beats in time or in rows per second without losing in the other."""
    costs = [((row, speed), (speed.median_s, -speed.rows_per_s)) for row, speed in timed if row.shippable]
    return [
        pair
        for pair, own in costs
        if not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for _, other in costs)
    ]


@dataclass(frozen=True)
class _Series:
    """Sorted times (s) of single calls, or of blocks where calls are too short to be timed alone."""

    times_s: Sequence[float]
    of: str

    @property
    def percentiles(self) -> Mapping[float, Percentile]:
        """By share; those that so many calls support, and of blocks, whose spread is not that of calls, the median."""
        shares = _MARKED if self.of == "calls" else _MARKED[:1]
        by_share = {share: percentile(self.times_s, share) for share in shares}
        return {share: reached for share, reached in by_share.items() if reached is not None}


def _series(measured: Measurement, batch_rows: int) -> _Series:
    """At the thread count that the artifact is compared with."""
    own = [
        samples
        for samples in measured.samples
        if (samples.batch_rows, samples.threads_count) == (batch_rows, measured.options.threads_count)
    ]
    if calls_s := sorted(time for samples in own for time in samples.calls_s):
        return _Series(calls_s, "calls")
    return _Series(sorted(time for samples in own for time in samples.samples_s), "blocks")


def _steps(times_s: Sequence[float]) -> list[tuple[float, float]]:
    """Shares and the times within which they were answered; the tail whole, since it is what one looks for."""
    count = len(times_s)
    ranks = sorted({*range(0, count, max(1, count // _STEPS)), *range(max(0, count - 20), count)})
    return [((rank + 1) / count, times_s[rank]) for rank in ranks]
