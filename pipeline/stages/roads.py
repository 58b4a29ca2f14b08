"""From an artifact that parity refuses to that of another road, where one passes.

Exporters choose among their roads by a coarse trial (export/roads.py); here parity itself has the last word. What was
built first stays in its place until another has passed, and for good where none does.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.parity.report import ParityReport
from bench.verdict.judge import Failure
from export import registry
from export.artifact import Artifact, ProgramRecord, read_artifact
from export.files import publish
from export.record import write
from export.roads import ROAD, detour
from export.worker import Failed, Workspace
from pipeline.run import Run, fresh
from pipeline.stages.build import BuildStage
from pipeline.stages.children import Failures, failure, load_options, side_by_side
from pipeline.stages.parity import ParityStage
from pipeline.stages.refused import known
from pipeline.stages.train import Trained

Judged = tuple[dict[str, Artifact], dict[str, ParityReport]]
"""By backend: artifacts, and the reports on them."""
_LOGS = "other-roads"


def by_other_roads(
    run: Run,
    trained: Trained,
    program: ProgramRecord,
    artifacts: Mapping[str, Artifact],
    reports: Mapping[str, ParityReport],
    failures: Failures,
) -> Judged:
    """Every artifact with its report; where parity refuses one, those of the first other road that passes.

    What is quantised is left as it is: another road would round its weights in the same way.
    """
    refusals = {
        name: why
        for name, artifact in artifacts.items()
        if ROAD in artifact.facts
        and not registry.get(artifact.backend).calibrated
        and (why := refusal(reports.get(name) or failures.get(name))) is not None
    }
    if not refusals:
        return {**artifacts}, {**reports}
    roads = _OtherRoads(run, BuildStage(run, trained, program), ParityStage(run, trained, program))
    tried = side_by_side(run, "parity", refusals, lambda name: roads.first(artifacts[name], refusals[name]), {})
    passed = {name: work for name, work in tried.items() if work is not None}
    for name in passed:
        failures.pop(name, None)
    judged = {**reports} | {name: work.report for name, work in passed.items()}
    return (
        {**artifacts} | {name: work.artifact for name, work in passed.items()},
        {name: judged[name] for name in run.found.recipe.entries if name in judged},
    )


def refusal(end: ParityReport | Failure | None) -> str | None:
    """What parity has against an artifact: that it is wrong, or that it ends the process that judges it."""
    if isinstance(end, Failure):  # what takes too long, or too much memory, may be right
        return f"parity: {end.cause}" if end.step == "parity" and end.cause.startswith("crashed") else None
    return f"parity: {end.reasons[0]}" if end is not None and end.status == "fail" else None


@dataclass(frozen=True)
class _Passed:
    """What another road built."""

    artifact: Artifact
    report: ParityReport


@dataclass(frozen=True)
class _OtherRoads:
    """The roads that are left to the artifacts of a run."""

    run: Run
    builds: BuildStage
    parity: ParityStage

    def first(self, refused: Artifact, why: str) -> _Passed | None:
        """What the first other road builds that passes, now in the place of what was refused; None if none passes."""
        run, place, name = self.run, self.run.files.refused_roads(refused.name), refused.name
        before = known(run, place, self.builds.key(refused.backend))
        if before.closed == self.parity.standard:
            return None
        run.console.stage("parity", f"{name}: refused as built by {refused.facts[ROAD]}, and built by another road")
        left_out, folder = before.left_out | {refused.facts[ROAD]: why}, fresh(run.files.artifact(name), "other")
        while isinstance(artifact := self._built(refused.backend, folder, left_out), Artifact):
            if artifact.facts.get(ROAD) in {None, *left_out}:
                break  # the backend goes the same road again
            end = self._judged(artifact, folder)
            if isinstance(end, ParityReport) and end.status == "pass":
                write(place, replace(before, left_out=left_out, closed=None))  # first: if killed now, it is built again
                publish(folder, run.files.artifact(name))
                write(run.files.parity_report(name), end)
                run.console.stage("parity", f"{name}: {end.summary}, {detour(artifact.facts)}")
                return _Passed(artifact, end)
            left_out[artifact.facts[ROAD]] = f"parity: {end.cause if isinstance(end, Failure) else end.summary}"
        shutil.rmtree(folder)
        if isinstance(artifact, Artifact) or artifact.status in {"failed", "crashed"}:
            write(place, replace(before, closed=self.parity.standard))  # else another machine, or limit, may let it
        why = "" if isinstance(artifact, Artifact) else f" ({artifact.summary})"
        run.console.stage("parity", f"{name}: no other road builds one that passes{why}")
        return None

    def _built(self, backend: str, folder: Path, left_out: Mapping[str, str]) -> Artifact | Failed:
        """The artifact by a road that is not left out, or how its process ended."""
        shutil.rmtree(folder)
        folder.mkdir()
        end = self.builds.make(backend, folder, left_out, self._workspace)
        if isinstance(end, Failed):
            failure(self.run, "build", end)  # a full disk is no matter of roads
            return end
        return read_artifact(folder)

    def _judged(self, artifact: Artifact, folder: Path) -> ParityReport | Failure:
        return self.parity.judge(artifact, load_options(self.run, artifact), folder, self._workspace)

    @property
    def _workspace(self) -> Workspace:
        """One with logs of its own: those of what was refused stay as they are."""
        return replace(self.run.workspace, folder=self.run.files.log / _LOGS)
