"""Numbers as people read them; the stored values stay as they are."""

from __future__ import annotations

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
        return "tied, the simplest" if verdict.tied else "winner"
    if _is_baseline(row):
        return "baseline"
    if row.reasons:
        return "; ".join(row.reasons)
    return "tied" if row.name in verdict.tied else ""


def _is_baseline(row: Row) -> bool:
    return row.name == BASELINE and row.parity == "pass"


def seconds(value: float | None) -> str:
    """``2.51 us``, ``1.20 ms``, ``3.4 s``; a dash for unknown."""
    if value is None:
        return "-"
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if value * factor < 1000:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s"


def size(value: int | None) -> str:
    """``12.1 kB``, ``1.54 MB``; a dash for unknown."""
    if value is None:
        return "-"
    for unit, factor in (("B", 1), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if value < 1000 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e12:.3g} TB"


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
    return f"{seconds(measured.median_s)} ({1 / measured.to_eager.ratio.value:.2g}x)"


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
