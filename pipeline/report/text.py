"""A verdict's rows as people read them; the stored values stay as they are."""

from __future__ import annotations

from bench.parity.check import CheckStatus
from bench.verdict.baseline import slower_than_eager
from bench.verdict.figures import Speed
from bench.verdict.judge import Row, Verdict
from export.registry import BASELINE
from pipeline.report import numbers

WINNER, GOOD, BAD, PLAIN = "★", "✓", "✗", "·"
CHECK_MARKS: dict[CheckStatus, str] = {
    "fail": BAD,
    "inconclusive": "?",
    "unchecked": "-",
    "reported": "~",
    "pass": GOOD,
}
"""From the worst to the best."""


def mark(row: Row, verdict: Verdict) -> str:
    """One character: the winner, shippable, not shippable, or the baseline, which never ships."""
    if row.name == verdict.winner:
        return WINNER
    return PLAIN if is_baseline(row) else (GOOD if row.shippable else BAD)


def note(row: Row, verdict: Verdict) -> str:
    """A few words beside a row: what it is, or why it may not ship."""
    if row.name == verdict.winner:
        rank = "tied, the simplest" if verdict.tied else "winner"
        slower = ", ".join(map(str, slower_than_eager(row.speeds)))
        return f"{rank}, slower than eager at batch {slower}" if slower else rank
    if is_baseline(row):
        return "baseline"
    if row.reasons:
        return "; ".join(row.reasons)
    return "; ".join(filter(None, ["tied" if row.name in verdict.tied else "", row.effective.get("why_slow", "")]))


def brief(row: Row, verdict: Verdict) -> str:
    """The same in a terminal's table: why a row may not ship stands below it."""
    if row.reasons and not is_baseline(row):
        return "may not ship" if row.built else "not built"
    if "stored" in row.effective and row.name != verdict.winner:
        return f"{row.effective['stored']}, computed in {row.effective['precision']}"
    return note(row, verdict)


def is_baseline(row: Row) -> bool:
    """Whether it is the right baseline, which never ships and is no failure for that."""
    return row.name == BASELINE and row.parity == "pass"


def parity(row: Row) -> str:
    """The status, and the largest error as a multiple of eager's own."""
    if row.parity is None:
        return "-"
    return row.parity if row.worst_ratio is None else f"{row.parity} {row.worst_ratio:.2f}"


def speed(measured: Speed | None) -> str:
    """``2.51 us (5.7x)``: the time per call, and how many times faster than eager."""
    if measured is None or measured.spoilt is not None:
        return "-"
    if measured.to_eager is None:
        return numbers.seconds(measured.median_s)
    return f"{numbers.seconds(measured.median_s)} ({numbers.times(1 / measured.to_eager.ratio.value)})"


def cold(row: Row) -> str:
    """From no process to the first answer."""
    return numbers.seconds(row.cold.total_s) if row.cold else "-"


def memory(row: Row) -> str:
    """Peak resident memory of a process that holds the artifact alone."""
    return numbers.size(row.cold.peak_bytes) if row.cold else "-"


def batches(rows: tuple[Row, ...]) -> list[int]:
    """The batch sizes that any row was measured at."""
    return sorted({speed.batch_rows for row in rows for speed in row.speeds})


def speed_at(row: Row, batch_rows: int) -> Speed | None:
    """A row's speed at one batch size."""
    return next((speed for speed in row.speeds if speed.batch_rows == batch_rows), None)
