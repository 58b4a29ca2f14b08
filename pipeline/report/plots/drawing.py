"""What every plot is: a drawing, a sentence that says what it shows, and its figures as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

WIDTH, BAR = 620, 20
FONT = "system-ui, sans-serif"
GOOD, BAD, UNKNOWN, PLAIN = "#1a7f4b", "#b3261e", "#b8860b", "#9aa7b5"
"""Told apart on white and on black; what a plot says by colour, its labels and its table say too."""
SMALLEST, LARGEST = 1e-3, 1e3
"""Where an interval that bounds nothing is cut off."""
LOG = alt.Scale(type="log", nice=False, padding=12)
Point = dict[str, Any]
"""What is drawn, by field."""
_MANY = 10
"""So many values tableau10 tells apart."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing for the page."""

    name: str
    """Its anchor."""
    title: str
    says: str
    """What it shows, and in which units."""
    svg: Markup
    heads: tuple[str, ...]
    """The headings of its table."""
    rows: tuple[tuple[str, ...], ...]
    by_backend: bool = True
    """Whether each row is of the backend that its first cell names."""

    @property
    def opening(self) -> Markup:
        """The start tag of the drawing; title and description follow it."""
        return self.svg[: self._inner]

    @property
    def content(self) -> Markup:
        """All that follows them."""
        return self.svg[self._inner :]

    @property
    def _inner(self) -> int:
        return self.svg.index(">") + 1


def values(points: Sequence[Point]) -> Any:
    """Points as Vega-Lite takes them."""
    return alt.Data(values=points)  # type: ignore[no-untyped-call]


def chart(points: Sequence[Point], height: Any = 220, **more: Any) -> Any:
    """A chart of these points, as wide as all others."""
    return alt.Chart(values(points), width=WIDTH, height=height, **more)


def by_backend(names: Iterable[str]) -> Any:
    """A row per backend, in the order of the table."""
    return alt.Y("backend:N", sort=[*names], title=None)


def colours(names: Sequence[str], field: str = "backend") -> Any:
    """A colour for each value of a field, in this order."""
    scale = alt.Scale(domain=[*names], scheme="tableau10" if len(names) <= _MANY else "tableau20")
    return alt.Color(f"{field}:N", sort=[*names], scale=scale, title=None)


def labels(base: Any) -> Any:
    """The field ``label`` at the right of a bar."""
    return base.mark_text(align="left", dx=6, font=FONT).encode(text="label:N")


def drawn(whole: Any) -> Markup:
    """The drawing, marked as HTML that is not to be escaped: Vega has escaped the texts in it."""
    plain = (
        whole.properties(padding={"left": 24, "right": 24, "top": 4, "bottom": 4}, background="transparent")
        .configure_view(stroke=None)
        .configure_axis(grid=False, labelFont=FONT, titleFont=FONT, titleFontWeight="normal")
        .configure_legend(labelFont=FONT, titleFont=FONT)
        .configure_title(anchor="start", font=FONT, fontSize=12)
    )
    return Markup(vl_convert.vegalite_to_svg(plain.to_dict()))  # noqa: S704
