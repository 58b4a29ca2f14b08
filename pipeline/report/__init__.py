"""The report of a run: one self-contained HTML page, without scripts, that a person understands at a glance."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.verdict import BASELINE, Row, Verdict
from export.record import write_atomically
from pipeline import text

if TYPE_CHECKING:
    from pipeline.run import Run

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2733;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.banner{border-left:6px solid #b3261e;background:#fbeceb;padding:.8rem 1rem;margin:1rem 0}
.banner.good{border-color:#1a7f4b;background:#e9f5ee}
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #dde3e9}
td:nth-child(-n+2),th:nth-child(-n+2),td:last-child,th:last-child{text-align:left}
td:not(:last-child){white-space:nowrap}tr.winner{background:#e9f5ee;font-weight:600}tr.bad td{color:#b3261e}
code{background:#eef1f4;padding:.1rem .3rem;border-radius:3px}small,.dim{color:#5b6876}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dd{margin:0}
svg{max-width:100%;height:auto}
"""


def write_report(run: Run, verdict: Verdict) -> None:
    """Write ``report.html``, unless it already shows this verdict."""
    from export.record import digest

    path = run.folder / "report.html"
    stamp = f"<!-- verdict {digest(verdict)} -->"
    if path.exists() and path.read_text().startswith(stamp):
        return
    write_atomically(path, (stamp + "\n" + _page(run, verdict)).encode())


def _page(run: Run, verdict: Verdict) -> str:
    from pipeline.report.plots import latency_svg, parity_svg

    headline = f"Ship {verdict.winner}" if verdict.winner and verdict.good else ("Not good" if not verdict.winner else f"{verdict.winner} may ship, the run is not good")
    latency = latency_svg(verdict)
    errors = parity_svg(verdict, run.found.recipe.parity.max_peak_ratio)
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>{_safe(verdict.recipe)}: {_safe(headline)}</title><style>{_STYLE}</style>",
        f"<h1>{_safe(verdict.recipe)} <small>on {_safe(run.device)}, run {_safe(run.folder.name)}</small></h1>",
        f"<div class='banner{' good' if verdict.good else ''}'><strong>{_safe(headline)}.</strong> {'<br>'.join(map(_safe, verdict.reasons))}</div>",
        _table(verdict),
        "<p class=dim>Export: seconds to build. Parity: the largest error against float64, in units of eager float32's own. "
        "Batch columns: median time per call, and how many times faster than eager; hover for the 95 % interval.</p>",
    ]
    if latency:
        parts += ["<h2>Latency</h2>", latency]
    if errors:
        parts += ["<h2>Parity</h2>", errors, "<p class=dim>An artifact may be as wrong as eager float32 honestly is, and "
                  f"{run.found.recipe.parity.max_peak_ratio:g} times that at its single worst element (dashed).</p>"]  # fmt: skip
    parts += _failures(verdict.rows)
    parts += ["<h2>Facts</h2>", _facts(run, verdict)]
    return "\n".join(parts) + "\n"


def _table(verdict: Verdict) -> str:
    batches = text.batches(verdict.rows)
    head = "".join(f"<th>{_safe(name)}</th>" for name in ["", "backend", "export", "size", "parity", *(f"batch {rows}" for rows in batches), ""])
    return f"<table><tr>{head}</tr>{''.join(_row(row, verdict, batches) for row in verdict.rows)}</table>"


def _row(row: Row, verdict: Verdict, batches: list[int]) -> str:
    baseline = row.name == BASELINE and row.parity == "pass"
    kind = "winner" if row.name == verdict.winner else ("" if row.shippable or baseline else "bad")
    mark = "★" if kind == "winner" else ("·" if baseline else text.MARKS[row.shippable])
    note = "baseline" if baseline else "; ".join(row.reasons)
    if row.name in verdict.tied:
        note = "tied" if row.name != verdict.winner else "tied, the simplest to deploy"
    cells = [mark, row.name, text.seconds(row.build_s), text.size(row.size_bytes), text.parity(row)]
    speeds = "".join(f"<td title='{_safe(_interval(row, rows))}'>{_safe(text.speed(text.speed_at(row, rows)))}</td>" for rows in batches)
    return f"<tr class='{kind}'>{''.join(f'<td>{_safe(cell)}</td>' for cell in cells)}{speeds}<td>{_safe(note)}</td></tr>"


def _interval(row: Row, batch_rows: int) -> str:
    speed = text.speed_at(row, batch_rows)
    if speed is None:
        return ""
    words = f"{speed.rows_per_s:,.0f} rows/s"
    if speed.ratio_to_eager:
        ratio = speed.ratio_to_eager
        words += f"; {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] times eager's time: {speed.word}"
    return words


def _failures(rows: Iterable[Row]) -> list[str]:
    failed = [row for row in rows if row.log]
    if not failed:
        return []
    items = "".join(
        f"<li><strong>{_safe(row.name)}</strong>: {_safe('; '.join(row.reasons))}<br>log <code>{_safe(row.log or '')}</code>, "
        f"again with <code>sh {_safe(row.reproduce or '')}</code></li>"
        for row in failed
    )
    return ["<h2>What failed</h2>", f"<ul>{items}</ul>"]


def _facts(run: Run, verdict: Verdict) -> str:
    environment = run.record.environment
    facts = {
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in verdict.metrics.items()) or "none",
        "processor": f"{environment['machine']['cpu']}, {environment['machine']['cores_count']} cores",
        "GPUs": ", ".join(environment["machine"]["gpus"]) or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
        "Python": environment["python"],
        "verdict": f"{verdict.observed.at}, {verdict.key[:12]}",
    }
    return f"<dl>{''.join(f'<dt class=dim>{_safe(name)}</dt><dd>{_safe(str(value))}</dd>' for name, value in facts.items())}</dl>"


def _safe(value: str) -> str:
    return html.escape(value, quote=True)
