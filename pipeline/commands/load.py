"""Put an artifact under load by MLPerf's LoadGen: one stream, everything at once, and arrivals at random.

    python -m pipeline.load RUN [ARTIFACT] --p99-ms MS [options]

RUN is a folder, a recipe's name (its latest run) or RECIPE@KEY; ARTIFACT is the winner if left out. Reports the highest
rate of arrivals at which the 99th percentile holds. Exit code 0: some rate does; 1: none does; 2: usage or environment.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from export.errors import UserError
from pipeline.cli import GOOD, NOT_GOOD

if TYPE_CHECKING:
    from bench.load import LoadReport
    from pipeline.console import Console


@dataclass(frozen=True)
class Options:
    """What to load, and how."""

    run: tyro.conf.Positional[str]
    """A folder, a recipe's name, or RECIPE@KEY."""
    artifact: tyro.conf.Positional[str] = ""
    """By its row's name; the winner if left out."""
    p99_ms: float | None = None
    """The limit on latency; the recipe's own if left out."""
    duration_s: float = 5.0
    """Duration of each test, at least."""
    callers: int = 2
    """Threads that answer arrivals."""
    offline_rows: int = 32
    """Rows per call where everything is there at once."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    json: bool = False
    """Print the record as JSON, and nothing else."""


def main(arguments: Sequence[str], command: str = "python -m pipeline.load") -> int:
    """Load it in a process of its own, write the record, show it."""
    options = tyro.cli(Options, args=list(arguments), prog=command, description=__doc__)
    from bench.load import LoadJob, LoadReport, highest, load, missing
    from bench.parity.report import ParityReport
    from bench.verdict.judge import Verdict
    from export.artifact import open_artifact
    from export.record import digest, encode, observed, read, write
    from export.worker import Failed
    from pipeline.commands.named import find_run
    from pipeline.console import Console
    from pipeline.run import RecipeRecord, held, workspace_of

    if (reason := missing()) is not None:
        raise UserError(reason)
    run = find_run(options.run, options.out)
    verdict = read(Verdict, run.verdict)
    name = options.artifact or verdict.winner
    if name is None or name not in run.artifact_names():
        raise UserError(f"{run.path} has no artifact {name!r}, it has {', '.join(row.name for row in verdict.rows)}")
    p99_ms = options.p99_ms or verdict.limits.max_p99_ms
    if p99_ms is None:
        raise UserError("the recipe states no limits.max_p99_ms: say what latency must hold, --p99-ms MS")
    report = read(ParityReport, run.parity_report(name))
    if report.status != "pass":
        raise UserError(f"{name} did not pass parity: a wrong artifact is not timed")
    console = Console(json=options.json)
    console.stage("load", f"{name}, p99 within {p99_ms:g} ms")
    artifact = open_artifact(run.artifact(name))
    rows = artifact.signature.ranges[artifact.signature.batch].max if artifact.signature.batch else 1
    rows_file = run.existing_samples()
    with held(run.path), tempfile.TemporaryDirectory(prefix="torchstone-loadgen-") as logs:
        job = LoadJob(
            artifact=str(run.artifact(name)),
            options=report.options,
            samples=str(rows_file) if rows_file else None,
            p99_ms=p99_ms,
            duration_s=options.duration_s,
            callers_count=options.callers,
            offline_rows=min(options.offline_rows, rows),
            logs=logs,
        )
        end = workspace_of(run, read(RecipeRecord, run.recipe_record)).run(load, job, "load", fresh=True)
    if isinstance(end, Failed):
        raise UserError(f"loading {name} {end.summary}\nThe whole story: {end.log}")
    tests = tuple(end.result)
    record = LoadReport(
        artifact=name,
        artifact_sha256=digest(artifact),
        options=report.options,
        p99_ms=p99_ms,
        callers_count=options.callers,
        server_per_s=highest(tests),
        tests=tests,
        observed=observed(end.duration_s),
    )
    write(run.load_report(name), record)
    _show(console, record)
    if options.json:
        print(encode(record).decode())
    return GOOD if record.server_per_s is not None else NOT_GOOD


def _show(console: Console, record: LoadReport) -> None:
    """A line per test, as LoadGen judged it."""
    from rich import box
    from rich.table import Table

    table = Table("scenario", "asked /s", "achieved /s", "p50", "p99", "LoadGen says", box=box.SIMPLE)
    for test in record.tests:
        p50, p99 = (test.percentiles_ms.get(name) for name in ("50.00", "99.00"))
        table.add_row(
            test.scenario,
            "-" if test.target_per_s is None else f"{test.target_per_s:,.0f}",
            "-" if test.achieved_per_s is None else f"{test.achieved_per_s:,.0f}",
            "-" if p50 is None else f"{p50:.3g} ms",
            "-" if p99 is None else f"{p99:.3g} ms",
            "valid" if test.valid else test.judgement,
        )
    console.show(table)
    held = "no rate" if record.server_per_s is None else f"{record.server_per_s:,.0f} queries/s of one row"
    console.say(f"{record.artifact}: {held} with the 99th percentile within {record.p99_ms:g} ms")
