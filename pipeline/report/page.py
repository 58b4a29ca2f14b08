"""The HTML report of a run: one self-contained page that a person understands at a glance.

The markup is in ``templates/``; the modules here prepare the values that it shows, as plain records. The page says all
without its script, which sorts, filters and copies; its policy lets it run that script alone, and load nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.parity.reference import Reference
from bench.parity.run import read_calibration
from bench.verdict.judge import Row, Verdict
from export import hints
from export.files import write_atomically
from export.record import digest, read
from pipeline.report import numbers, text
from pipeline.report.backends import prepare_backends
from pipeline.report.ending import judged_problems
from pipeline.report.levels import prepare_levels
from pipeline.report.lineage import lineage
from pipeline.report.timing import Figure, prepare_costs, prepare_latency
from pipeline.report.untested import tested, untested

if TYPE_CHECKING:
    from jinja2 import Environment

    from bench.run_folder import RunFolder
    from pipeline.report.plots.drawing import Plot
    from pipeline.report.results import Results
    from pipeline.run import RecipeRecord

_SERVING = "serving"
"""The folder of the command that ships the winner."""


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


def write_report(files: RunFolder, record: RecipeRecord, results: Results) -> None:
    """Write ``report.html``, unless it already shows this verdict."""
    if not _shows(files.page, digest(results.verdict)):
        write_atomically(files.page, render(files, record, results).encode())


def render(files: RunFolder, record: RecipeRecord, results: Results) -> str:
    """The page as HTML; ``record`` says what the run depends on."""
    verdict, reports, reference = results.verdict, results.reports, _reference(files)
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            verdict=verdict,
            verdict_sha256=digest(verdict),
            run_name=files.path.name,
            device=record.device,
            headline=_headline(verdict),
            remarks=(*verdict.reasons, *(f"Warning: {warning}." for warning in verdict.warnings)),
            table=_table(verdict),
            ship=hints.command("ship", hints.place(files.path), "--to", _SERVING) if verdict.good else None,
            tested=tested(verdict, reports),
            untested=untested(reports, reference, record.device),
            failed=tuple((problem, problem.next_step(files)) for problem in judged_problems(verdict)),
            plots=_plots(files, results, reference),
            latency=prepare_latency(verdict),
            costs=prepare_costs(verdict),
            of_model=reference.remarks if reference else (),
            levels=prepare_levels(reports),
            backends=prepare_backends(files, verdict, results.artifacts, reports),
            lineage=lineage(files, verdict.winner),
            facts=_facts(record, verdict),
        )
    )


@functools.cache
def templates() -> Environment:
    """The templates: every value is escaped, and a name that a template misspells is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["source_hash"] = _source_hash
    return made


def _source_hash(source: str) -> str:
    """By what a Content-Security-Policy names a script, or a style, that a page may have."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _plots(files: RunFolder, results: Results, reference: Reference | None) -> dict[str, list[Plot]]:
    """Those that there is something to draw of, by the section that they stand in."""
    # Altair takes a third of a second to import, which a rerun that changes nothing need not pay.
    from pipeline.report.plots import costs, parity, times, training

    verdict, reports = results.verdict, results.reports
    calibration = read_calibration(files, reference) if reference else None
    sections = {
        "times": (
            times.latency(verdict),
            times.over_batch(verdict),
            times.ratios(verdict),
            times.distribution(verdict, results.measurements),
        ),
        "costs": (costs.start_up(verdict), costs.room(verdict), costs.roofline(verdict)),
        "parity": (
            parity.worst(verdict, reports),
            parity.by_output(reports),
            parity.in_ulps(reports),
            parity.detection(calibration),
        ),
        "training": (training.loss(_epochs(files)), training.throughput(_lines(files.training_speed))),
    }
    return {name: [plot for plot in plots if plot is not None] for name, plots in sections.items()}


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


def _reference(files: RunFolder) -> Reference | None:
    """What was seen of the model before any artifact was judged, and which calls it refuses; None if it was not."""
    return read(Reference, files.reference_record) if files.reference_record.exists() else None


def _epochs(files: RunFolder) -> list[dict[str, float | None]]:
    """The figures of every epoch of the training."""
    return [line for line in _lines(files.metrics) if "train_loss" in line and "epoch" in line]


def _lines(path: Path) -> list[dict[str, float | None]]:
    """A file of a JSON object a line; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _facts(record: RecipeRecord, verdict: Verdict) -> dict[str, str]:
    """What the figures depend on, by name."""
    environment = record.environment
    machine = environment["machine"]
    return {
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in sorted(verdict.metrics.items())) or "none",
        "processor": f"{machine['cpu']}, {machine['cores_count']} cores",
        "GPUs": ", ".join(machine["gpus"]) or "none visible",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(environment["versions"].items())),
        "Python": environment["python"],
        "verdict": f"{verdict.observed.at}, {verdict.key[:12]}",
    }
