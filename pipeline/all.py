"""The whole story in order: train, capture, build, parity, measure, judge, report.

    python -m pipeline.all [RECIPE] [options]

Exit code 0: every required backend is good; 1: one is not; 2: usage or environment; 130: interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.cli import GOOD, NOT_GOOD, choose_device, end, parse

if TYPE_CHECKING:
    from pipeline.cli import Options
    from pipeline.run import Run


def main(arguments: Sequence[str]) -> int:
    """Run the pipeline for one recipe."""
    found, options = parse(arguments, "python -m pipeline.all")
    from export.version import VERSION
    from pipeline.console import Console
    from pipeline.run import open_run

    device = choose_device(options.device)
    console = Console(quiet=options.quiet, json=options.json)
    with open_run(found, device, options.out, console) as run:
        console.say(f"torchstone {VERSION}: recipe {found.recipe.name} on {device}, in {run.folder}")
        return story(run, options)


def story(run: Run, options: Options) -> int:
    """Every stage from the records before it; ``--only`` stops after one."""
    from pipeline import stages
    from pipeline.report import write_report
    from pipeline.run import set_latest
    from pipeline.table import verdict_table

    failures = stages.check(run)
    trained = stages.train(run)
    if options.only == "train":
        return GOOD
    program = stages.capture(run, trained)
    if options.only == "capture":
        return GOOD if program.failure is None else NOT_GOOD
    artifacts = stages.build(run, trained, program, failures)
    if options.only == "build":
        return NOT_GOOD if failures.keys() & set(run.found.recipe.required) else GOOD
    reports = stages.parity(run, trained, artifacts, failures)
    measurements = stages.measure(run, trained, artifacts, reports, failures) if options.only != "parity" else {}
    verdict = stages.judge(run, trained, artifacts, reports, measurements, failures)
    write_report(run, verdict)
    set_latest(run)
    run.console.show(verdict_table(verdict))
    run.console.say("\n".join([*verdict.reasons, f"report: {run.folder / 'report.html'}"]))
    if options.json:
        from export.record import encode

        print(encode(verdict).decode())
    return GOOD if verdict.good else NOT_GOOD


if __name__ == "__main__":
    raise SystemExit(end(main))
