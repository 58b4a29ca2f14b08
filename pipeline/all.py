"""The whole story in order: train, capture, build, parity, measure, judge, report, bundle.

    python -m pipeline.all [RECIPE] [options]

Exit code 0: every required backend is good; 1: one is not; 2: usage or environment; 130: interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.cli import GOOD, NOT_GOOD, end, parse

if TYPE_CHECKING:
    from pathlib import Path

    from bench.verdict.judge import Verdict
    from pipeline.cli import Options
    from pipeline.run import Run


def main(arguments: Sequence[str]) -> int:
    """Run the pipeline for one recipe."""
    located, options = parse(arguments, "python -m pipeline.all")
    from export.device import choose
    from export.version import VERSION
    from pipeline.console import Console
    from pipeline.run import open_run

    device = choose(options.device).name
    console = Console(quiet=options.quiet, json=options.json)
    with open_run(located, device, options.out, console) as run:
        console.say(f"torchstone {VERSION}: recipe {located.recipe.name} on {device}, in {run.folder}")
        return story(run, options)


def story(run: Run, options: Options) -> int:
    """Every stage from the records before it; ``--only`` stops after one."""
    from pipeline.stages.build import build
    from pipeline.stages.bundle import bundle
    from pipeline.stages.capture import capture
    from pipeline.stages.judge import judge
    from pipeline.stages.measure import measure
    from pipeline.stages.parity import parity
    from pipeline.stages.train import check, train

    failures = check(run)
    trained = train(run)
    if options.only == "train":
        return GOOD
    program = capture(run, trained)
    if options.only == "capture":
        return NOT_GOOD if program.failure else GOOD
    artifacts = build(run, trained, program, failures)
    if options.only == "build":
        return required_good(run, artifacts)
    reports = parity(run, trained, program, artifacts, failures)
    if options.only == "parity":
        return required_good(run, {name: report for name, report in reports.items() if report.status == "pass"})
    session, measurements = measure(run, trained, program, artifacts, reports, failures)
    if options.only == "measure":
        return required_good(run, measurements)
    verdict = judge(run, trained, artifacts, reports, session, measurements, failures)
    bundled = None if options.only == "judge" else bundle(run, verdict)
    show(run, verdict, bundled, options)
    return GOOD if verdict.good else NOT_GOOD


def required_good(run: Run, good: Mapping[str, object]) -> int:
    """The exit code of a story that stops early: whether every required backend got this far."""
    return GOOD if set(run.found.recipe.must_be_good) <= good.keys() else NOT_GOOD


def show(run: Run, verdict: Verdict, bundled: Path | None, options: Options) -> None:
    """The final table, or the verdict as JSON."""
    from export.record import encode
    from pipeline.report.table import verdict_table

    run.console.show(verdict_table(verdict))
    wrong = [row.name for row in verdict.rows if row.parity == "fail"]
    hints = [f"where: python -m pipeline.locate {run.folder} {name}" for name in wrong]
    doubts = [f"warning: {warning}" for warning in verdict.warnings]
    places = [f"report: {run.files.page}", *([f"bundle: {bundled}"] if bundled else [])]
    run.console.say("\n".join([*verdict.reasons, *doubts, *hints, *places]))
    if options.json:
        print(encode(verdict).decode())


if __name__ == "__main__":
    raise SystemExit(end(main))
