"""The HTML report of a run: one self-contained page, without scripts, that a person understands at a glance.

The markup is in ``templates/``; the modules here prepare the values that it shows, as plain records.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.parity.reference import Reference
from bench.verdict.judge import Row, Verdict
from export.files import write_atomically
from export.record import digest, read
from pipeline.report import numbers, text
from pipeline.report.levels import prepare_levels
from pipeline.report.timing import Figure, prepare_costs, prepare_latency

if TYPE_CHECKING:
    from jinja2 import Environment

    from bench.parity.report import ParityReport
    from pipeline.run import Run


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A backend in the table at the top, every figure as a person reads it."""

    css_class: str
    mark: str
    name: str
    export: str
    size: str
    start: str
    memory: str
    parity: str
    speeds: tuple[Figure, ...]
    """One per batch size."""
    note: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """The table at the top."""

    batch_sizes: tuple[int, ...]
    rows: tuple[TableRow, ...]


def write_report(run: Run, verdict: Verdict, reports: Mapping[str, ParityReport]) -> None:
    """Write ``report.html``, unless it already shows this verdict."""
    path = run.files.page
    if not _shows(path, digest(verdict)):
        write_atomically(path, render(run, verdict, reports).encode())


def render(run: Run, verdict: Verdict, reports: Mapping[str, ParityReport]) -> str:
    """The page as HTML; ``reports`` are the parity reports by artifact, in the order of their columns."""
    # Altair takes a third of a second to import, which a rerun that changes nothing need not pay.
    from pipeline.report.plots import latency_svg, parity_svg, training_svg

    max_peak_ratio = run.found.recipe.parity.max_peak_ratio
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            verdict=verdict,
            verdict_sha256=digest(verdict),
            run_name=run.folder.name,
            device=run.device,
            headline=_headline(verdict),
            remarks=(*verdict.reasons, *(f"Warning: {warning}." for warning in verdict.warnings)),
            table=_table(verdict),
            latency_plot=latency_svg(verdict),
            latency=prepare_latency(verdict),
            costs=prepare_costs(verdict),
            parity_plot=parity_svg(verdict, max_peak_ratio),
            max_peak_ratio=f"{max_peak_ratio:g}",
            of_model=_of_model(run),
            training_plot=training_svg(_epochs(run)),
            levels=prepare_levels(reports),
            failures=tuple(row for row in verdict.rows if row.log),
            facts=_facts(run, verdict),
        )
    )


@functools.cache
def templates() -> Environment:
    """The templates: every value is escaped, and a name that a template misspells is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shows(path: Path, verdict_sha256: str) -> bool:
    """Whether a page is there that names this verdict in its first line."""
    if not path.exists():
        return False
    with path.open("rb") as page:
        return verdict_sha256.encode() in page.readline()


def _headline(verdict: Verdict) -> str:
    if verdict.winner is None:
        return "Nothing may ship"
    return f"Ship {verdict.winner}" if verdict.good else f"{verdict.winner} may ship, but the run is not good"


def _table(verdict: Verdict) -> Table:
    batch_sizes = tuple(text.batches(verdict.rows))
    return Table(batch_sizes=batch_sizes, rows=tuple(_row(row, verdict, batch_sizes) for row in verdict.rows))


def _row(row: Row, verdict: Verdict, batch_sizes: tuple[int, ...]) -> TableRow:
    mark = text.mark(row, verdict)
    return TableRow(
        css_class="winner" if row.name == verdict.winner else ("bad" if mark == text.BAD else ""),
        mark=mark,
        name=row.name,
        export=numbers.seconds(row.build_s),
        size=numbers.size(row.size_bytes),
        start=text.cold(row),
        memory=text.memory(row),
        parity=text.parity(row),
        speeds=tuple(_speed(row, batch_rows) for batch_rows in batch_sizes),
        note=text.note(row, verdict),
    )


def _speed(row: Row, batch_rows: int) -> Figure:
    """The time per call; on hover the throughput, and the interval of its ratio to eager."""
    speed = text.speed_at(row, batch_rows)
    if speed is None or speed.spoilt is not None:
        return Figure(text=text.speed(speed), hover=speed.spoilt if speed else None)
    hover = f"{speed.rows_per_s:,.0f} rows/s"
    if speed.to_eager:
        ratio = speed.to_eager.ratio
        interval = ratio.spelled(3)
        hover += f"; {interval} times eager's time: {speed.to_eager.comparison}"
    return Figure(text=text.speed(speed), hover=hover)


def _of_model(run: Run) -> tuple[str, ...]:
    """What was seen of the model before any artifact was judged, and which calls it refuses."""
    if not run.files.reference_record.exists():
        return ()
    reference = read(Reference, run.files.reference_record)
    return (*reference.remarks, *(f"{case} is left out: {why}" for case, why in reference.left_out.items()))


def _epochs(run: Run) -> list[dict[str, float | None]]:
    """The figures of every epoch of the training."""
    path = run.files.metrics
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if "train_loss" in line and "epoch" in line]


def _facts(run: Run, verdict: Verdict) -> dict[str, str]:
    """What the figures depend on, by name."""
    environment = run.record.environment
    machine = environment["machine"]
    return {
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in verdict.metrics.items()) or "none",
        "processor": f"{machine['cpu']}, {machine['cores_count']} cores",
        "GPUs": ", ".join(machine["gpus"]) or "none visible",
        "versions": ", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
        "Python": environment["python"],
        "verdict": f"{verdict.observed.at}, {verdict.key[:12]}",
    }
