"""Numbers as people read them; the stored values stay as they are."""

from __future__ import annotations

import math

from bench.verdict.baseline import slower_than_eager
from bench.verdict.figures import Speed
from bench.verdict.judge import Row, Verdict
from export.registry import BASELINE

WINNER, GOOD, BAD, PLAIN = "★", "✓", "✗", "·"


def mark(row: Row, verdict: Verdict) -> str:
    """One character: the winner, shippable, not shippable, or the baseline, which never ships."""
    if row.name == verdict.winner:
        return WINNER
    return PLAIN if _is_baseline(row) else (GOOD if row.shippable else BAD)


def note(row: Row, verdict: Verdict) -> str:
    """A few words beside a row: what it is, or why it may not ship."""
    if row.name == verdict.winner:
        rank = "tied, the simplest" if verdict.tied else "winner"
        slower = ", ".join(map(str, slower_than_eager(row.speeds)))
        return f"{rank}, slower than eager at batch {slower}" if slower else rank
    if _is_baseline(row):
        return "baseline"
    if row.reasons:
        return "; ".join(row.reasons)
    return "tied" if row.name in verdict.tied else ""


def brief(row: Row, verdict: Verdict) -> str:
    """The same in a terminal's table: why a row may not ship stands below it."""
    if row.reasons and not _is_baseline(row):
        return "may not ship" if row.built else "not built"
    return note(row, verdict)


def _is_baseline(row: Row) -> bool:
    return row.name == BASELINE and row.parity == "pass"


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


def parity(row: Row) -> str:
    """The status, and the largest error as a multiple of eager's own."""
    if row.parity is None:
        return "-"
    return row.parity if row.worst_ratio is None else f"{row.parity} {row.worst_ratio:.2f}"


def speed(measured: Speed | None) -> str:
    """``2.51 us (5.7x)``: the time per call, and how many times faster than eager."""
    if measured is None:
        return "-"
    if measured.to_eager is None:
        return seconds(measured.median_s)
    return f"{seconds(measured.median_s)} ({times(1 / measured.to_eager.ratio.value)})"


def times(ratio: float) -> str:
    """``0.28x``, ``5.7x``, ``190x``: a ratio with two digits."""
    return f"{plain(ratio, 2)}x"


def cold(row: Row) -> str:
    """From no process to the first answer."""
    return seconds(row.cold.total_s) if row.cold else "-"


def memory(row: Row) -> str:
    """Peak resident memory of a process that holds the artifact alone."""
    return size(row.cold.peak_bytes) if row.cold else "-"


def batches(rows: tuple[Row, ...]) -> list[int]:
    """The batch sizes that any row was measured at."""
    return sorted({speed.batch_rows for row in rows for speed in row.speeds})


def speed_at(row: Row, batch_rows: int) -> Speed | None:
    """A row's speed at one batch size."""
    return next((speed for speed in row.speeds if speed.batch_rows == batch_rows), None)
