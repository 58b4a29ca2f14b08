"""Numbers as people read them; what is stored stays as it is. Nothing here imports torch."""

from __future__ import annotations

import math


def plain(value: float, digits: int) -> str:
    """A number rounded to so many significant digits and never in exponent notation: ``0.28``, ``5.7``, ``190``."""
    rounded = float(f"{value:.{digits - 1}e}")
    places = digits - 1 - (math.floor(math.log10(abs(rounded))) if rounded else 0)
    return f"{rounded:.{max(0, places)}f}"


def seconds(value: float | None) -> str:
    """``2.51 us``, ``1.2 ms``, ``3.4 s``; a dash for unknown."""
    return _scaled(value, (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)))


def size(value: int | None) -> str:
    """``12.1 kB``, ``1.54 MB``; a dash for unknown."""
    return _scaled(value, (("B", 1), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)))


def _scaled(value: float | None, units: tuple[tuple[str, float], ...]) -> str:
    """Three digits in the first unit in which it is below 1000 once it is rounded: 999.96 us are ``1 ms``."""
    if value is None:
        return "-"
    for unit, scale in units[:-1]:
        if float(f"{value / scale:.3g}") < 1000:
            return f"{_three(value / scale)} {unit}"
    unit, scale = units[-1]
    return f"{_three(value / scale)} {unit}"


def _three(value: float) -> str:
    digits = plain(value, 3)
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def share(value: float | None) -> str:
    """``1.3%``; a dash for what is too large to mean anything."""
    return "-" if value is None else f"{value:.1%}"


def times(ratio: float) -> str:
    """``0.28x``, ``5.7x``, ``190x``: a ratio with two digits."""
    return f"{plain(ratio, 2)}x"
