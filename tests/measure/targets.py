"""The project's targets on speed, measured: each artifact against eager at eager's best thread count, and the overhead.

    python -m tests.measure.targets [RECIPE ...] [--processes 10] [--out FOLDER]

Builds and proves the recipes, then times every artifact that passed parity and eager at every thread count in the same
rounds of the same fresh processes. Prints Markdown; docs/measured/timing.md holds what one machine said.
"""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from bench.stats.effects import mean_ratio, paired_logs
from bench.timing.block import Block
from bench.timing.contender import Candidate
from bench.timing.measurement import CONTROL
from bench.timing.processes.session import Session
from bench.timing.processes.together import Culprit, sample_processes
from bench.timing.roofline import RooflineJob, floor, roofline
from bench.timing.sample import Sampled
from bench.timing.spec import BenchSpec
from export import registry
from export.artifact import PROGRAM_FILE, Artifact, open_artifact
from export.backend import Runner
from export.build import Source
from export.environment import cores_count, environment
from export.record import digest, read
from export.worker import Workspace
from pipeline.find import find
from pipeline.training.source import TrainedModule
from tests.conftest import ROOT, environ

TARGETS: dict[str, dict[int, float]] = {
    "seed": {1: 5.5, 32: 5.5, 1024: 3.5},
    "cnn": {1: 5.5, 32: 3.0, 1024: 3.8},
    "sentence": {1: 2.4, 32: 2.2},
}
"""How many times faster than eager, by batch size."""
PLACES = {"cnn": "tests/recipes/cnn.py"}
_BACKENDS = ("eager", "torchscript", "aotinductor", "onnx", "onnx-legacy", "openvino")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ("seed", "cnn", "digits", "sentence")
    processes: int = 10
    out: Path = Path("artifacts/targets")


def main(options: Options) -> int:
    """A table per recipe, and the overhead of a call; 1 if a target is missed."""
    here = environment()
    print(f"{here.machine.cpu}, {here.machine.cores_count} cores, Python {here.python}; ", end="")
    print(", ".join(f"{name} {version}" for name, version in here.versions.items()))
    met = [_recipe(name, options) for name in options.recipes]
    return 0 if all(met) else 1


def _recipe(name: str, options: Options) -> bool:
    run = built(name, options.out)
    artifacts = {path.parent.name: open_artifact(path.parent) for path in (run / "artifacts").glob("*/artifact.json")}
    tested_sizes = {one: artifact for one, artifact in artifacts.items() if _passes(run, artifact)}
    batches = tuple(TARGETS.get(name, {1: 0.0, 32: 0.0, 1024: 0.0}))
    location = find(PLACES.get(name, name)).location
    source = TrainedModule(location=location, weights=str(RunFolder(run).weights)).source()
    session, candidates = _candidates(run, tested_sizes, source, batches, options.processes)
    with tempfile.TemporaryDirectory() as workspace:
        sampled = sample_processes(session, candidates, Workspace(folder=Path(workspace)), lambda _: None)
    if isinstance(sampled, Culprit):
        raise RuntimeError(f"{sampled.label}: {sampled.end.cause}")
    print(f"\n### {name}, batch {', '.join(map(str, batches))}: {options.processes} processes\n")
    met = _ratios(sampled, candidates, batches, TARGETS.get(name, {}), run, next(iter(tested_sizes.values())))
    _overhead(run, tested_sizes)
    return met


def built(name: str, out: Path) -> Path:
    """A run with every backend that can be built here."""
    wanted = [one for one in _BACKENDS if registry.get(one).unavailable("cpu") is None]
    command = [sys.executable, "-m", "pipeline.all", PLACES.get(name, name), "--out", str(out), "--only", "parity"]
    flags = ["--quiet", "--backends", *wanted, "--required", "onnx"]
    subprocess.run([*command, *flags], check=True, cwd=ROOT, env=environ())
    runs = sorted((path.parent for path in (out / name).glob("*/recipe.json")), key=lambda path: path.stat().st_mtime)
    return runs[-1].resolve()


def _passes(run: Path, artifact: Artifact) -> bool:
    path = run / "parity" / f"{artifact.name}.json"
    if not path.exists():
        return False
    report = read(ParityReport, path)
    return report.status == "pass" and report.artifact_sha256 == digest(artifact)


def _candidates(
    run: Path, tested_sizes: Mapping[str, Artifact], source: Source, batches: tuple[int, ...], processes: int
) -> tuple[Session, tuple[Candidate, ...]]:
    """Each artifact at one thread and at all, where it lets one choose; eager twice for the noise."""
    options = {name: read(ParityReport, run / "parity" / f"{name}.json").options for name in tested_sizes}
    samples = RunFolder(run).existing_samples()
    session = Session(
        folders={name: run / "artifacts" / name for name in tested_sizes},
        options=options,
        source=source,
        program=None,
        spec=BenchSpec(batch_rows=batches, processes_count=processes, callers=(), call_limit_s=10.0),
        samples=samples,
        seed=0,
        key="targets",
    )
    found = []
    for name, artifact in tested_sizes.items():
        fixed = registry.get(artifact.backend).threads == "build"
        for count in {options[name].threads_count} if fixed else {1, cores_count()}:
            chosen = replace(options[name], threads_count=count)
            folder = str(session.folders[name])
            found.append(Candidate(label=f"{name} @{count}", folder=folder, options=chosen, whole=False))
    eager = next(one for one in found if one.label.startswith("eager @"))
    return session, (*found, replace(eager, label=CONTROL))


def _ratios(
    sampled: Sequence[Sampled],
    candidates: Sequence[Candidate],
    batches: Sequence[int],
    targets: Mapping[int, float],
    run: Path,
    artifact: Artifact,
) -> bool:
    """The table; whether every target is met."""
    spec = BenchSpec(batch_rows=tuple(batches))
    job = RooflineJob(
        program=str(run / "program" / PROGRAM_FILE),
        signature=artifact.signature,
        spec=spec,
        device="cpu",
        threads_counts=(cores_count(),),
    )
    allowed = roofline(job)
    good = True
    for rows in batches:
        times = {one.label: _samples(sampled, one.label, rows) for one in candidates}
        medians = {label: statistics.median(map(statistics.median, samples)) for label, samples in times.items()}
        eager = min((label for label in medians if label.startswith("eager @")), key=lambda label: medians[label])
        work = next(one for one in allowed.work if one.batch_rows == rows)
        least = floor(work, allowed.ceilings[0])
        most = medians[eager] / least.least_s
        print(
            f"Batch {rows}: {eager} takes {medians[eager] * 1e6:.4g} us; the machine allows {most:.2f}x at most", end=""
        )
        print(f" ({least.term}: {least.least_s * 1e6:.3g} us).\n")
        print("| artifact @threads | median us | times faster than eager |")
        print("|---|---|---|")
        best = 0.0
        for label in sorted(medians, key=lambda one: medians[one]):
            if label in {CONTROL, eager}:
                continue
            ratio = mean_ratio(paired_logs(times[eager], times[label]))
            if not label.startswith("eager"):
                best = max(best, ratio.value)
            interval = ratio.spelled()
            print(f"| {label} | {medians[label] * 1e6:.4g} | {interval} |")
        if rows in targets:
            met = best >= targets[rows]
            good = good and met
            print(f"\nTarget {targets[rows]:g}: {'met' if met else 'missed'}, {best:.2f}.\n")
        else:
            print()
    return good


def _samples(sampled: Sequence[Sampled], label: str, rows: int) -> list[Sequence[float]]:
    return [one.samples_s for of_process in sampled for one in of_process.series[label] if one.batch_rows == rows]


def _overhead(run: Path, tested_sizes: Mapping[str, Artifact]) -> None:
    """What ``Bound.run`` and a checked call cost above the runtime's own call with the same inputs, batch 1."""
    import torch

    from export.arrays import to_torch

    print("Overhead at batch 1, one thread, blocks in random turns in one process:\n")
    print("| artifact | bare bound | Bound.run | bare call | checked call |")
    print("|---|---|---|---|---|")
    for name, artifact in tested_sizes.items():
        if name not in {"onnx", "onnx-legacy", "aotinductor", "torchscript"}:
            continue
        options = replace(read(ParityReport, run / "parity" / f"{name}.json").options, threads_count=1)
        runner = registry.load(run / "artifacts" / name, options)
        arrays: dict[str, Any] = dict(artifact.signature.example(artifact.signature.sizes_at(1), seed=0))
        if not name.startswith("onnx"):
            arrays = {one: to_torch(array) for one, array in arrays.items()}
        with torch.inference_mode():
            calls = _bare(runner, arrays) | {"bound": runner.bind(arrays).run, "checked": lambda: runner(arrays)}  # noqa: B023
            medians = in_turns(calls)
        bound, checked = medians["bound"] / medians["bare bound"] - 1, medians["checked"] - medians["bare"]
        print(
            f"| {name} | {medians['bare bound'] * 1e6:.2f} us | {medians['bound'] * 1e6:.2f} us ({bound:+.1%}) "
            f"| {medians['bare'] * 1e6:.2f} us | {medians['checked'] * 1e6:.2f} us ({checked * 1e6:+.2f} us) |"
        )
    print()


def _bare(runner: Runner, arrays: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """The runtime's own calls: what a person would write by hand around the very object that the runner holds."""
    loaded: Any = runner._loaded
    if hasattr(loaded, "_session"):
        session, names, fed = loaded._session, loaded._outputs, dict(arrays)
        binding = loaded._run_bound(list(arrays.values()))
        for output, value in zip(names, binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(output, value)
        return {"bare": lambda: session.run(names, fed), "bare bound": lambda: session.run_with_iobinding(binding)}
    call, tensors = loaded._call, list(arrays.values())
    return {"bare": lambda: call(*tensors), "bare bound": lambda: call(*tensors)}


def in_turns(calls: Mapping[str, Callable[[], Any]], rest_s: float = 0.0) -> dict[str, float]:
    """Median seconds per call of each, over 60 rounds, with ``rest_s`` of sleep and an untimed block before each."""
    order = random.Random(0)
    blocks = {}
    for name, call in calls.items():
        blocks[name] = Block([call] * 4, lambda: None)
        blocks[name].warm_up(50, 0.05, 1.0, 0.002)
    samples: dict[str, list[float]] = {name: [] for name in blocks}
    names = list(blocks)
    for _ in range(60):
        order.shuffle(names)
        for name in names:
            if rest_s:
                time.sleep(rest_s)
                blocks[name].rest()
            samples[name].append(blocks[name].sample_s())
    assert not any(math.isnan(sample) for kept in samples.values() for sample in kept)
    return {name: statistics.median(kept) for name, kept in samples.items()}


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
