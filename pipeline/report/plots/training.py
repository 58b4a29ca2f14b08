"""How the training went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from pipeline.report.plots.drawing import GOOD, PLAIN, Plot, Point, chart, drawn

Figures = dict[str, float | None]
"""The figures of an epoch, or of a stretch of steps, by name."""


def loss(epochs: Sequence[Figures]) -> Plot | None:
    """The loss of every epoch, in training and on the validation split; None if there are fewer than two epochs."""
    points: list[Point] = [
        {"epoch": line["epoch"], "loss": line[name], "split": name.removesuffix("_loss")}
        for line in epochs
        for name in ("train_loss", "validation_loss")
        if line.get(name) is not None
    ]
    if len({point["epoch"] for point in points}) < 2:
        return None
    kinds = [kind for kind in ("train", "validation") if kind in {point["split"] for point in points}]
    scale = alt.Scale(domain=kinds, range=[PLAIN, GOOD])
    y = alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False))
    colour = alt.Color("split:N", scale=scale, title=None)
    lines = chart(points, height=160).mark_line(point=True).encode(x=_epochs(), y=y, color=colour)
    rates: list[Figures] = [{"epoch": line["epoch"], "lr": line["lr"]} for line in epochs if line.get("lr") is not None]
    panels = [lines, *([_rate_panel(rates)] if len({point["lr"] for point in rates}) > 1 else [])]
    return Plot(
        name="training",
        by_backend=False,
        title="Training",
        says="The loss after every epoch, and the learning rate where it moves.",
        svg=drawn(alt.vconcat(*panels, spacing=12)),
        heads=("epoch", "training loss", "validation loss", "learning rate"),
        rows=tuple(
            (f"{line['epoch']:g}", *(_spelled(line.get(name)) for name in ("train_loss", "validation_loss", "lr")))
            for line in epochs
        ),
    )


def throughput(stretches: Sequence[Figures]) -> Plot | None:
    """Rows per second as the training went on; None if fewer than two stretches were timed."""
    points = [line for line in stretches if line.get("rows_per_s") is not None and line.get("step") is not None]
    if len(points) < 2:
        return None
    x = alt.X("step:Q", title="step")
    y = alt.Y("rows_per_s:Q", title="rows per second")
    return Plot(
        name="training-throughput",
        by_backend=False,
        title="Speed of the training",
        says="Rows per second over the steps of the training.",
        svg=drawn(chart(points, height=120).mark_line(point=True, color=PLAIN).encode(x=x, y=y)),
        heads=("step", "rows per second"),
        rows=tuple((f"{line['step']:g}", f"{line['rows_per_s']:,.0f}") for line in points),
    )


def _epochs() -> Any:
    return alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1))


def _rate_panel(rates: Sequence[Figures]) -> Any:
    y = alt.Y("lr:Q", title="learning rate")
    return chart(rates, height=80).mark_line(color=PLAIN).encode(x=_epochs(), y=y)


def _spelled(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
