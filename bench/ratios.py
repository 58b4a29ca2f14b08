"""How much slower or faster than eager each artifact of a run is, by one fresh process: the grain of the speed gate.

    python -m bench.ratios RUN [--seed 0] [--batch-rows 1 32]

Prints JSON. The gate starts it anew for every sample, from this commit's tree and from another's in turns; what it
prints is therefore kept the same from commit to commit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from bench.stats.effects import paired_logs
from bench.timing.contender import Candidate
from bench.timing.measurement import CONTROL
from bench.timing.sample import SampleJob, sample
from bench.timing.spec import BenchSpec
from export.artifact import open_artifact
from export.build import Source
from export.record import digest, read, to_json
from export.registry import BASELINE


@dataclass(frozen=True)
class Options:
    """What to compare."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    seed: int = 0
    """The seed of the order of everything."""
    batch_rows: tuple[int, ...] = (1, 32)
    rounds: int = 20


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Log of a time over eager's, by artifact and batch size; of one process."""

    logs: dict[str, dict[str, float]]
    again: dict[str, float]
    """Log of eager's time over its own, by batch size: noise."""


def main(options: Options) -> int:
    """Measure once, print."""
    print(json.dumps(to_json(ratios(options))))
    return 0


def ratios(options: Options) -> Ratios:
    """One process's paired ratios.

    Raises:
        RuntimeError: the run has no eager baseline that passed parity.
    """
    run = options.run.resolve()
    candidates = _candidates(run)
    if not any(candidate.label == BASELINE for candidate in candidates):
        raise RuntimeError(f"{run} has no eager artifact that passed parity: ratios are taken to it")
    rows = RunFolder(run).existing_samples()
    with tempfile.TemporaryDirectory() as scratch:
        job = SampleJob(
            candidates=tuple(candidates),
            source=Source(function="pipeline.training.source:run_module", argument=str(run)),
            spec=BenchSpec(batch_rows=options.batch_rows, rounds_count=options.rounds, callers_s=1e-3, callers=()),
            samples=str(rows) if rows else None,
            seed=options.seed,
            process=0,
            current=str(Path(scratch) / "current"),
        )
        series = sample(job).series
    eager = series.pop(BASELINE)
    logs = {
        label: {
            str(samples.batch_rows): paired_logs([samples.samples_s], [eager_samples.samples_s])[0]
            for samples, eager_samples in zip(by_batch, eager, strict=True)
        }
        for label, by_batch in series.items()
    }
    return Ratios(again=logs.pop(CONTROL), logs=logs)


def _candidates(run: Path) -> list[Candidate]:
    """Every artifact that passed parity, as proved, and eager twice."""
    files = RunFolder(run)
    candidates = []
    for name in files.artifact_names():
        folder, report_file = files.artifact(name), files.parity_report(name)
        if not report_file.exists():
            continue
        report, artifact = read(ParityReport, report_file), open_artifact(folder)
        if report.status == "pass" and report.artifact_sha256 == digest(artifact):
            candidates.append(Candidate(label=name, folder=str(folder), options=report.options, whole=False))
    controls = [replace(candidate, label=CONTROL) for candidate in candidates if candidate.label == BASELINE]
    return candidates + controls


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
