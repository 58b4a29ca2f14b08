"""The whole story in order: train, capture, build, parity, measure, judge, report, bundle.

    python -m pipeline.all [RECIPE] [options]

Exit code 0: every required backend is good; 1: one is not; 2: usage or environment; 130: interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.cli import GOOD, NOT_GOOD, end, parse

if TYPE_CHECKING:
    from pathlib import Path

    from bench.parity.report import ParityReport
    from bench.run_folder import RunFolder
    from bench.timing.measurement import Measurement
    from bench.verdict.judge import Failure, Verdict
    from export.artifact import Artifact, ProgramRecord
    from pipeline.cli import Stage
    from pipeline.console import Console
    from pipeline.run import Run


@dataclass(kw_only=True)
class Ending:
    """What a run came to, as far as it went; by backend."""

    failures: dict[str, Failure]
    program: ProgramRecord | None = None
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    reports: Mapping[str, ParityReport] = field(default_factory=dict)
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    verdict: Verdict | None = None
    bundle: Path | None = None

    def is_good(self, run: Run, only: Stage | None) -> bool:
        """Whether every required backend got through the stage at which it stopped, or the verdict is good."""
        passed = {name: report for name, report in self.reports.items() if report.status == "pass"}
        through: dict[str, Mapping[str, object]] = {
            "build": self.artifacts, "parity": passed, "measure": self.measurements,
        }  # fmt: skip
        if self.verdict is not None:
            return self.verdict.good
        if only == "capture":
            return self.program is not None and not self.program.failure
        return only == "train" or set(run.found.recipe.must_be_good) <= through[str(only)].keys()


def main(arguments: Sequence[str], command: str = "python -m pipeline.all") -> int:
    """Run the pipeline for one recipe."""
    located, options = parse(arguments, command)
    from export.device import choose
    from export.version import VERSION
    from pipeline.console import Console
    from pipeline.run import open_run

    device = choose(options.device).name
    console = Console(quiet=options.quiet, json=options.json)
    with open_run(located, device, options.out, console) as run:
        console.say(f"torchstone {VERSION}: recipe {located.recipe.name} on {device}, in {run.folder}")
        ending = story(run, options.only)
        if ending.verdict is not None:
            show(console, run.files, ending.verdict, ending.bundle)
        else:
            _show_unjudged(run, ending)
        return GOOD if ending.is_good(run, options.only) else NOT_GOOD


def story(run: Run, only: Stage | None = None) -> Ending:
    """Every stage from the records before it; ``only`` stops after one."""
    from export.worker import expect_children

    if only != "train" and not run.files.checkpoint.exists():  # then there will be children
        expect_children()
    from pipeline.stages.build import build
    from pipeline.stages.bundle import bundle
    from pipeline.stages.capture import capture
    from pipeline.stages.judge import judge
    from pipeline.stages.measure import measure
    from pipeline.stages.parity import ParityStage, parity
    from pipeline.stages.retraced import Made, by_another_trace
    from pipeline.stages.roads import by_other_roads
    from pipeline.stages.threads import at_better_threads
    from pipeline.stages.train import check, train

    failures = check(run)
    end = Ending(failures=failures)
    trained = train(run)
    if only == "train":
        return end
    end.program = program = capture(run, trained)
    if only == "capture":
        return end
    if only == "build":
        end.artifacts = build(run, trained, program, failures)
        return end
    stage = ParityStage(run, trained, program)
    end.artifacts = artifacts = build(run, trained, program, failures, beside=stage.begin())
    reports = parity(stage, artifacts, failures)
    made = by_another_trace(run, trained, Made(program=program, artifacts=artifacts, reports=reports), failures)
    end.program = program = made.program
    artifacts, reports = by_other_roads(run, trained, program, made.artifacts, made.reports, failures)
    end.artifacts, end.reports = artifacts, reports
    if only == "parity":
        return end
    measured = session, _ = measure(run, trained, program, artifacts, reports, failures)
    end.reports, end.measurements = at_better_threads(run, trained, program, artifacts, reports, measured)
    if only == "measure":
        return end
    end.verdict = judge(run, trained, artifacts, end.reports, session, end.measurements, failures)
    if only != "judge":
        end.bundle = bundle(run, end.verdict)
    return end


def show(console: Console, files: RunFolder, verdict: Verdict, bundled: Path | None) -> None:
    """The final table and what follows from it, or the verdict as JSON."""
    from export.record import encode
    from pipeline.report import ending
    from pipeline.report.table import verdict_lines

    console.lines(verdict_lines(verdict, console.width))
    ending.show(console, ending.closing_lines(files, verdict))
    for warning in verdict.warnings:
        console.prose(f"warning: {warning}")
    console.say(f"report: {files.page}")
    if bundled is not None:
        console.say(f"bundle: {bundled}")
    if console.json:
        print(encode(verdict).decode())


def _show_unjudged(run: Run, end: Ending) -> None:
    """What is wrong of a run that stopped before its verdict."""
    from pipeline.report import ending

    names = {key: entry.row(run.device) for key, entry in run.found.recipe.entries.items()}
    problems = ending.unjudged_problems(names, end.failures, end.reports)
    ending.show(run.console, ending.problem_lines(run.files, problems))


if __name__ == "__main__":
    raise SystemExit(end(main))
