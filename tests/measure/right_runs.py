"""How often a right artifact is refused: thousands of simulated ones, each judged as a whole run judges it.

    python -m tests.measure.right_runs [--runs-count 2000] [--out FILE.jsonl] [--write PAGE]

A simulated artifact computes the traced program as another library might: with noise of a rounding after every
operator, with its sums in another order, or decomposed into elementary operators whose functions are as inexact as
vectorised libraries' are. Its noise depends on the call alone, so that it is deterministic. The models are those that
faults are planted in, and two that were once refused without cause; each has several sets of weights. What a file
already holds is not run again. How many of all artifacts may be refused at most follows by Clopper and Pearson
(Biometrika 26, 1934).
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from bench.parity.outputs import OutputsJob
from bench.parity.perturbed import Elementary, Reassociated, Rounded, decomposed
from bench.parity.report import ParityReport
from bench.parity.spec import ParitySpec
from export.arrays import to_numpy
from export.backend import LoadOptions
from export.build import Source
from export.program import load_exported, quiet
from export.record import from_json, to_json
from export.signature import Signature, SizeRange, TensorSpec
from export.task import J, R, Task
from export.worker import Done, Failed
from tests.faults import models as planted
from tests.inline import InlineWorkspace
from tests.model_run import ModelRun

KINDS = ("rounding", "re-association", "elementary operators")
_RUNS_PER_WEIGHTS = 25
_CONFIDENCE = 0.95
_ROWS = Signature(inputs=(TensorSpec("x", "float32", ("batch", 6)),), ranges={"batch": SizeRange(max=300)})


class Features(nn.Module):
    """``(batch, 6)`` to ``(batch, 384)``: ends in ReLU, so that many channels are zero in nearly all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 384), nn.ReLU(), nn.Linear(384, 384), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(x)
        return features


class Exponential(nn.Module):
    """``(batch, 6)`` to ``(batch, 1)``: an output whose size spans many orders of magnitude."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(4 * self.layers(x))


_OWN = {"Features": Features, "Exponential": Exponential}
MODELS = (*planted.TRACEABLE, *_OWN)


@dataclass(frozen=True)
class Options:
    """How many, and where to write."""

    runs_count: int = 2000
    budget_s: float = float("inf")
    """None is begun after so many seconds."""
    out: Path = Path("right_runs.jsonl")
    """A line for each."""
    write: Path | None = None
    """The page to write; None: it is printed."""
    at: str = ""
    """The commit, for the page."""


@dataclass(frozen=True, kw_only=True)
class RightRun:
    """One simulated artifact, and what became of it."""

    model: str
    weights: int
    """The seed of its weights."""
    draw: int
    """The seed of its noise."""
    kind: str
    status: str
    levels: tuple[str, ...]
    """Those that fail."""
    asked_again: bool
    """Whether equivalents of the model were asked about any case."""
    rms_ratio: float
    peak_ratio: float


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What the process that answers needs to know of an artifact."""

    model: str
    weights: int
    draw: int
    kind: str
    program: str
    signature: Signature


@dataclass(frozen=True, kw_only=True)
class SimulatingWorkspace(InlineWorkspace):
    """Has the artifact's answers from a simulation; whoever judges it sees the model itself."""

    simulation: Simulation

    def run(self, task: Task[J, R], job: J, name: str, **options: Any) -> Done[R] | Failed:
        if isinstance(job, OutputsJob):
            source = Source(
                function=f"{__name__}:simulated", argument=json.dumps(to_json(self.simulation), allow_nan=False)
            )
            job = replace(job, source=source)
        return super().run(task, job, name, **options)


def make(argument: str) -> nn.Module:
    """One of the two models of this file, by the JSON of its name and its weights' seed."""
    name, seed = json.loads(argument)
    torch.manual_seed(seed)
    return _OWN[name]().eval()


def simulated(argument: str) -> nn.Module:
    """The model, with another way to compute it in the place of ``forward``."""
    wanted = from_json(Simulation, json.loads(argument))
    module = _source(wanted.model, wanted.weights).module()
    forward, names = inspect.signature(module.forward), [spec.name for spec in wanted.signature.inputs]
    interpreter = _interpreter(wanted.program, wanted.kind)

    @functools.wraps(module.forward)
    def simulate(*arguments: Any, **keywords: Any) -> dict[str, torch.Tensor]:
        given = forward.bind(*arguments, **keywords).arguments
        tensors = [given[name] for name in names]
        seed = functools.reduce(lambda crc, tensor: zlib.crc32(to_numpy(tensor).tobytes(), crc), tensors, wanted.draw)
        interpreter._generator.manual_seed(seed)
        return dict(zip(wanted.signature.output_names, interpreter.run(*tensors), strict=True))

    module.forward = simulate
    return module


def main(options: Options) -> int:
    """Run what the file does not hold, then say what came of all."""
    known = {(run.model, run.weights, run.draw) for run in _read(options.out)}
    until = time.monotonic() + options.budget_s
    for model, weights in _models(options.runs_count):
        draws = [draw for draw in range(_RUNS_PER_WEIGHTS) if (model, weights, draw) not in known]
        if not draws:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            run = ModelRun(_source(model, weights), _signature(model), Path(scratch) / "run", ParitySpec())
            artifact = run.build("eager", Path(scratch) / "eager")
            for draw in draws:
                if time.monotonic() > until:
                    break
                done = _judge(run, artifact, model, weights, draw)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(done)) + "\n")
        print(f"{model} {weights}: {len(draws)} artifacts", flush=True)
    text = page(_read(options.out), options.at)
    if options.write is None:
        print(text)
    else:
        options.write.write_text(text, encoding="utf-8")
    return 0


def page(runs: list[RightRun], commit: str) -> str:
    """What became of them, as Markdown."""
    refused = [run for run in runs if run.status != "pass"]
    most = at_most(len(refused), len(runs))
    head = (
        "# Right artifacts, simulated\n\n"
        f"`python -m tests.measure.right_runs`{f' at {commit}' if commit else ''}: of {len(runs)} artifacts that "
        f"compute their model as another library might, {len(refused)} were not passed; with {_CONFIDENCE:.0%} "
        f"confidence at most {most:.2%} of such artifacts are not.\n\n"
        "| model | artifacts | not passed | asked again | RMS, largest | peak, largest |\n|---|---|---|---|---|---|\n"
    )
    rows = []
    for model in dict.fromkeys(run.model for run in runs):
        own = [run for run in runs if run.model == model]
        rows.append(
            f"| {model} | {len(own)} | {sum(run.status != 'pass' for run in own)} | "
            f"{sum(run.asked_again for run in own)} | {max(run.rms_ratio for run in own):.2f} | "
            f"{max(run.peak_ratio for run in own):.2f} |\n"
        )
    named = "".join(
        f"\n* {run.model} {run.weights}, {run.kind} {run.draw}: {run.status} ({', '.join(run.levels)})"
        for run in refused
    )
    return head + "".join(rows) + (f"\nNot passed:\n{named}\n" if named else "")


def at_most(refused_count: int, count: int) -> float:
    """The largest share that is refused no more often than that with a chance of at least 5 % (Clopper-Pearson)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        low, high = (share, high) if _chance(refused_count, count, share) > 1 - _CONFIDENCE else (low, share)
    return high


def _chance(most: int, count: int, share: float) -> float:
    """The chance of at most so many of ``count``, each with the chance ``share``."""
    term = total = (1 - share) ** count
    for number in range(1, most + 1):
        term *= (count - number + 1) / number * share / (1 - share)
        total += term
    return total


def _judge(run: ModelRun, artifact: Path, model: str, weights: int, draw: int) -> RightRun:
    kind = KINDS[draw % len(KINDS)]
    simulation = Simulation(
        model=model, weights=weights, draw=draw, kind=kind, program=str(run.program / "program.pt2"),
        signature=run.signature,
    )  # fmt: skip
    workspace = SimulatingWorkspace(folder=run.folder / "log", simulation=simulation)
    report = run.parity.judge(artifact, LoadOptions(threads_count=torch.get_num_threads()), workspace, "k")
    assert isinstance(report, ParityReport), report
    return RightRun(
        model=model,
        weights=weights,
        draw=draw,
        kind=kind,
        status=report.status,
        levels=report.failed_levels,
        asked_again=bool(report.spreads),
        rms_ratio=max((output.rms_ratio for output in report.outputs), default=0.0),
        peak_ratio=max((output.peak_ratio for output in report.outputs), default=0.0),
    )


def _models(runs_count: int) -> Iterator[tuple[str, int]]:
    """Models with their weights' seeds, each model as often as the others."""
    count = -(-runs_count // _RUNS_PER_WEIGHTS)
    return itertools.islice(((model, weights) for weights in itertools.count() for model in MODELS), count)


def _source(model: str, weights: int) -> Source:
    if model in _OWN:
        return Source(function=f"{__name__}:make", argument=json.dumps([model, weights]))
    return planted.source(model, weights)


def _signature(model: str) -> Signature:
    return _ROWS if model in _OWN else planted.SIGNATURES[model]


@functools.lru_cache(maxsize=len(KINDS))
def _interpreter(program: str, kind: str) -> Rounded | Reassociated:
    with quiet():
        exported = load_exported(Path(program))
        if kind == "rounding":
            return Rounded(exported, seed=0)
        if kind == "re-association":
            return Reassociated(exported, seed=0)
        return Elementary(decomposed(exported), seed=0)


def _read(path: Path) -> list[RightRun]:
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [RightRun(**line | {"levels": tuple(line["levels"])}) for line in lines]


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
