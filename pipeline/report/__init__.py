"""The report of a run: one self-contained HTML page, without scripts, that a person understands at a glance."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.verdict.judge import Row, Verdict
from export.record import digest, write_atomically
from pipeline.report import text

if TYPE_CHECKING:
    from bench.parity.report import ParityReport
    from pipeline.run import Run

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{recipe}: {headline}</title>
<style>{style}</style>
<h1>{recipe} <small>on {device}, run {run}</small></h1>
<div class="banner{good}"><strong>{headline}.</strong><br>{reasons}</div>
{table}
<p class="dim">Export: time to build. Start: from no process to the first answer. Memory: peak of a process that holds
it alone. Parity: the largest error against float64, in units of eager float32's own.
Batch columns: median time per call, and how many times faster than eager; hover for throughput and the 95 % interval.
</p>
{body}
<h2>Facts</h2>
{facts}
</html>
"""
_PARITY_NOTE = """<p class="dim">An artifact may be as wrong as eager float32 honestly is, and {limit:g} times that at
its single worst element (dashed).</p>"""


def write_report(run: Run, verdict: Verdict, reports: Mapping[str, ParityReport]) -> None:
    """Write ``report.html``, unless it already shows this verdict."""
    path = run.folder / "report.html"
    stamp = f"<!-- verdict {digest(verdict)} -->\n"
    if not path.exists() or not path.read_text().startswith(stamp):
        write_atomically(path, (stamp + _page(run, verdict, reports)).encode())


def _page(run: Run, verdict: Verdict, reports: Mapping[str, ParityReport]) -> str:
    from pipeline.report.levels import levels_table
    from pipeline.report.plots import latency_svg, parity_svg
    from pipeline.report.timing import timing_tables

    limit = run.found.recipe.parity.max_peak_ratio
    latency, errors = latency_svg(verdict), parity_svg(verdict, limit)
    body = [f"<h2>Latency</h2>{latency}"] if latency else []
    body.append(timing_tables(verdict))
    body += [f"<h2>Parity</h2>{errors}{_PARITY_NOTE.format(limit=limit)}"] if errors else []
    body.append(levels_table(reports))
    return _PAGE.format(
        recipe=_safe(verdict.recipe),
        headline=_safe(_headline(verdict)),
        style=(Path(__file__).parent / "page.css").read_text(),
        device=_safe(run.device),
        run=_safe(run.folder.name),
        good=" good" if verdict.good else "",
        reasons="<br>".join(map(_safe, [*verdict.reasons, *(f"Warning: {warning}." for warning in verdict.warnings)])),
        table=_table(verdict),
        body="\n".join([*body, *_failures(verdict.rows)]),
        facts=_facts(run, verdict),
    )


def _headline(verdict: Verdict) -> str:
    if verdict.winner is None:
        return "Nothing may ship"
    return f"Ship {verdict.winner}" if verdict.good else f"{verdict.winner} may ship, but the run is not good"


def _table(verdict: Verdict) -> str:
    batches = text.batches(verdict.rows)
    headings = [
        "",
        "backend",
        "export",
        "size",
        "start",
        "memory",
        "parity",
        *(f"batch {rows}" for rows in batches),
        "",
    ]
    head = "".join(f"<th>{_safe(heading)}</th>" for heading in headings)
    return f"<table><tr>{head}</tr>{''.join(_row(row, verdict, batches) for row in verdict.rows)}</table>"


def _row(row: Row, verdict: Verdict, batches: list[int]) -> str:
    mark, note = text.mark(row, verdict), text.note(row, verdict)
    cells = [mark, row.name, text.seconds(row.build_s), text.size(row.size_bytes), text.cold(row), text.memory(row)]
    cells.append(text.parity(row))
    plain = "".join(f"<td>{_safe(cell)}</td>" for cell in cells)
    speeds = "".join(
        f'<td title="{_safe(_hover(row, rows))}">{_safe(text.speed(text.speed_at(row, rows)))}</td>' for rows in batches
    )
    kind = "winner" if row.name == verdict.winner else ("bad" if mark == text.BAD else "")
    return f'<tr class="{kind}">{plain}{speeds}<td>{_safe(note)}</td></tr>'


def _hover(row: Row, batch_rows: int) -> str:
    speed = text.speed_at(row, batch_rows)
    if speed is None:
        return ""
    message = f"{speed.rows_per_s:,.0f} rows/s"
    if speed.to_eager:
        ratio = speed.to_eager.ratio
        message += (
            f"; {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] times eager's time: {speed.to_eager.comparison}"
        )
    return message


def _failures(rows: Iterable[Row]) -> list[str]:
    items = [
        f"<li><strong>{_safe(row.name)}</strong>: {_safe('; '.join(row.reasons))}<br>"
        f"log <code>{_safe(row.log or '')}</code>, again with <code>sh {_safe(row.reproduce or '')}</code></li>"
        for row in rows
        if row.log
    ]
    return [f"<h2>What failed</h2><ul>{''.join(items)}</ul>"] if items else []


def _facts(run: Run, verdict: Verdict) -> str:
    environment = run.record.environment
    machine = environment["machine"]
    facts = {
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in verdict.metrics.items()) or "none",
        "processor": f"{machine['cpu']}, {machine['cores_count']} cores",
        "GPUs": ", ".join(machine["gpus"]) or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
        "Python": environment["python"],
        "verdict": f"{verdict.observed.at}, {verdict.key[:12]}",
    }
    rows = "".join(f'<dt class="dim">{_safe(name)}</dt><dd>{_safe(value)}</dd>' for name, value in facts.items())
    return f"<dl>{rows}</dl>"


def _safe(value: str) -> str:
    return html.escape(value, quote=True)
