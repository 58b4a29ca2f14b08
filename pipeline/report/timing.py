"""The report's tables about time: every figure with what it means and what may be said of it."""

from __future__ import annotations

import html
from collections.abc import Iterable

from bench.stats.effects import Effect
from bench.verdict.figures import Speed
from bench.verdict.judge import Row, Verdict
from pipeline.report import text

_SPEED_NOTE = """<p class="dim">Bound: one call whose inputs and outputs stay where the model runs. Checked: names,
dtypes and shapes checked, NumPy in and out, fresh outputs. Percentiles are of single calls, their 95 % intervals on
hover; none is given for calls under 10 us, and none that the number of calls does not support. To eager: its time over
eager's with the interval over processes, corrected for all comparisons of this table (Holm); &plusmn; is the noise
floor, what an artifact differed from itself. Floor: the least time that this machine's arithmetic, memory or a bare
call allow, and the share of it that was reached.</p>"""
_COLD_NOTE = """<p class="dim">From no process to the first answer, files in the page cache; memory is the peak of the
resident set, at the first answer and after a call at every batch size. Callers call as fast as they are answered.
</p>"""


_EFFECTIVE = ("precision", "float32_products")
"""What the runtime itself says of its arithmetic."""


def timing_tables(verdict: Verdict) -> str:
    """Latency in detail, cold starts with memory, callers, why the others lost; empty if nothing was measured."""
    measured = [row for row in verdict.rows if row.speeds]
    if not measured:
        return ""
    parts = [_why_not(verdict), "<h2>Latency in detail</h2>", _speeds(measured), _SPEED_NOTE, _overhead(verdict)]
    if any(row.cold for row in measured):
        parts += ["<h2>Cold start, memory, callers</h2>", _costs(measured), _COLD_NOTE]
    return "\n".join(parts)


def _overhead(verdict: Verdict) -> str:
    if verdict.empty_block_s is None or verdict.empty_call_s is None:
        return ""
    in_block, alone = verdict.empty_block_s * 1e9, verdict.empty_call_s * 1e9
    summary = f"The harness adds {in_block:.0f} ns to a call timed in a block, {alone:.0f} ns to one alone."
    return f'<p class="dim">{summary}</p>'


def _why_not(verdict: Verdict) -> str:
    items = [
        f"<li><strong>{_safe(row.name)}</strong>{' (on the Pareto front)' if row.on_pareto_front else ''}: {_safe(row.why_not)}</li>"
        for row in verdict.rows
        if row.why_not
    ]
    return f"<h2>Why not the others</h2><ul>{''.join(items)}</ul>" if items else ""


def _speeds(rows: Iterable[Row]) -> str:
    head = ("backend", "batch", "bound", "checked", "p50", "p90", "p99", "to eager", "", "other threads", "floor", "")
    lines = [_speed(row, speed) for row in rows for speed in row.speeds]
    return _table(head, lines)


def _speed(row: Row, one: Speed) -> list[str]:
    percentiles = {found.share: found for found in one.percentiles}
    shown = [
        f'<span title="{_safe(f"{text.seconds(found.low_s)} to {text.seconds(found.high_s)}")}">'
        f"{text.seconds(found.value_s)}</span>"
        if (found := percentiles.get(share))
        else "-"
        for share in (0.5, 0.9, 0.99)
    ]
    threads = ", ".join(f"{count}: {text.seconds(median_s)}" for count, median_s in one.at_threads.items())
    reached = f"{one.efficiency:.0%} of it, {one.binds}" if one.efficiency is not None else ""
    return [
        _safe(row.name),
        str(one.batch_rows),
        text.seconds(one.median_s),
        text.seconds(one.checked_s),
        *shown,
        _ratio(one.to_eager),
        _said(one),
        threads or "-",
        text.seconds(one.least_s),
        reached,
    ]


def _ratio(effect: Effect | None) -> str:
    if effect is None:
        return "-"
    ratio = effect.ratio
    seen = f"so many processes show a difference of {effect.detectable_ratio:.1%} four times out of five"
    summary = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] &plusmn;{effect.noise_ratio:.1%}"
    return f'<span title="{_safe(seen)}">{summary}</span>'


def _said(one: Speed) -> str:
    if not one.settled:
        return "no steady state"
    if one.to_eager is None:
        return ""
    effect = one.to_eager
    if effect.comparison != "inconclusive":
        return effect.comparison
    needs = f"about {effect.needs_processes_count} processes" if effect.needs_processes_count else "less noise"
    return f"inconclusive: needs {needs}"


def _costs(rows: Iterable[Row]) -> str:
    rows = list(rows)
    concurrency = sorted({(one.batch_rows, one.callers_count) for row in rows for one in row.concurrency})
    head = ["backend", "runs as", "start", "import", "load", "first call", "in all", "first answer", "peak"]
    head += [f"{callers} callers, batch {batch}" for batch, callers in concurrency]
    lines = []
    for row in rows:
        cold = row.cold
        times = (cold.start_s, cold.import_s, cold.load_s, cold.first_call_s, cold.total_s) if cold else (None,) * 5
        sizes = (cold.first_bytes, cold.peak_bytes) if cold else (None, None)
        found = {(one.batch_rows, one.callers_count): one for one in row.concurrency}
        rates = [
            f"{found[key].rows_per_s:,.0f} rows/s, p50 {text.seconds(found[key].p50_s)}" if key in found else "-"
            for key in concurrency
        ]
        ran = ", ".join(f"{name} {value}" for name, value in row.effective.items() if name in _EFFECTIVE)
        threads = f"{row.options.threads_count} threads" if row.options else ""
        runs_as = _safe(", ".join(filter(None, [threads, ran])))
        lines.append([_safe(row.name), runs_as, *map(text.seconds, times), *map(text.size, sizes), *rates])
    return _table(head, lines)


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{_safe(one)}</th>" for one in head)
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{top}</tr>{rows}</table></div>'


def _safe(value: str) -> str:
    return html.escape(value, quote=True)
