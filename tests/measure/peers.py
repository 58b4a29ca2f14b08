"""The picked artifact against what other tools give by default on the same model, measured in turns.

    python -m tests.measure.peers [RECIPE ...] [--out FOLDER]

What is picked was tuned first (``pipeline.tune``). A default is the call that the tool's own documentation shows first,
on the very same weights. Each comparison is the ratio of medians over 60 random rounds in one process; exit code 1 if a
default that is exact is faster than what is picked here, by more than two such medians differ by themselves.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from bench.tune import Tuning
from export import registry
from export.arrays import to_torch
from export.artifact import RECORD, read_artifact
from export.environment import environment
from export.program import quiet
from export.record import read
from pipeline.find import find
from pipeline.training.source import TrainedModule
from tests.conftest import ROOT, environ
from tests.measure.targets import PLACES, built, in_turns

_BATCHES = {"sentence": (1, 32)}
_NOISE = 0.02
_EXACT = 1e-4
_REST_S = 0.005
"""Threads of a runtime spin for about a millisecond after a call, and would slow down whoever is next."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ("seed", "cnn", "digits")
    out: Path = Path("artifacts/targets")


def main(options: Options) -> int:
    """A table per recipe."""
    machine = environment().machine
    print(f"{machine.cpu}, {machine.cores_count} cores; {environment().versions}")
    met = [_recipe(name, options.out) for name in options.recipes]
    return int(not all(met))


def _recipe(name: str, out: Path) -> bool:
    run = built(name, out)
    subprocess.run(
        [sys.executable, "-m", "pipeline.tune", str(run), "--processes", "20", "--artifacts", "onnx", "onnx-legacy"],
        check=True,
        cwd=ROOT,
        env=environ(),
    )
    location = find(PLACES.get(name, name)).location
    module = TrainedModule(location=location, weights=str(RunFolder(run).weights)).source().module
    print(f"\n### {name}\n\n| batch | call | median us | times slower than the picked one |\n|---|---|---|---|")
    good = True
    for rows in _BATCHES.get(name, (1, 32, 1024)):
        with torch.inference_mode():
            calls = _ours(run, rows) | dict(_defaults(run, module().eval(), rows))
            inexact = _inexact(calls)
            medians = in_turns(calls, rest_s=_REST_S)
        names = [one for one in medians if one.startswith("ours")]
        picked = min(names, key=lambda one: medians[one])
        for one in sorted(medians, key=lambda one: medians[one]):
            ratio = medians[one] / medians[picked]
            note = " (picked)" if one == picked else inexact.get(one, "")
            print(f"| {rows} | {one}{note} | {medians[one] * 1e6:.4g} | {ratio:.2f} |")
            if one not in names and ratio < 1 - _NOISE and one not in inexact:
                good = False
                print(f"| {rows} | **{one} is faster than what was picked** | | |")
    return good


def _inexact(calls: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
    """Calls that do not compute in float32: beyond 1e-4 of the largest value from what eager answers."""
    answers = {}
    for name, call in calls.items():
        answer = call()
        first = next(iter(answer.values())) if hasattr(answer, "keys") else answer
        while isinstance(first, list | tuple):
            first = first[0]
        answers[name] = np.asarray(first, np.float64)
    truth = answers["eager module"]
    errors = {name: float(np.abs(answer - truth).max() / np.abs(truth).max()) for name, answer in answers.items()}
    return {name: f" (not exact: off by {error:.1e})" for name, error in errors.items() if error > _EXACT}


def _ours(run: Path, rows: int) -> dict[str, Callable[[], Any]]:
    """The bound call of every artifact that passed parity."""
    calls: dict[str, Callable[[], Any]] = {}
    for path in sorted((run / "artifacts").glob(f"*/{RECORD}")):
        artifact = read_artifact(path.parent)
        report = read(ParityReport, run / "parity" / f"{artifact.name}.json")
        if report.status != "pass" or not artifact.source_free:
            continue
        tuned = RunFolder(run).tuning(artifact.name)
        runner = registry.load(path.parent, read(Tuning, tuned).options if tuned.exists() else report.options)
        inputs = artifact.signature.example(artifact.signature.sizes_at(rows), seed=0)
        calls[f"ours: {artifact.name}"] = runner.bind(inputs).run
    return calls


def _defaults(run: Path, module: torch.nn.Module, rows: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What the first lines of each tool's documentation give."""
    import onnxruntime

    artifact = read_artifact(run / "artifacts" / "onnx")
    arrays: Mapping[str, Any] = artifact.signature.example(artifact.signature.sizes_at(rows), seed=0)
    tensors = [to_torch(array) for array in arrays.values()]
    with quiet():
        traced = torch.jit.trace(module, tuple(tensors), strict=False)
    compiled = torch.compile(module)
    frozen = torch.jit.freeze(traced)
    session = onnxruntime.InferenceSession(str(run / "artifacts/onnx/model.onnx"), providers=["CPUExecutionProvider"])
    yield "eager module", lambda: module(*tensors)
    yield "torch.jit.trace", lambda: traced(*tensors)
    yield "torch.jit.freeze", lambda: frozen(*tensors)
    yield "torch.compile", lambda: compiled(*tensors)
    yield "onnxruntime session.run", lambda: session.run(None, arrays)
    package = run / "artifacts" / "aotinductor" / "model.pt2"
    if package.exists():
        loaded = torch._inductor.aoti_load_package(str(package))
        yield "aoti_load_package", lambda: loaded(*tensors)
    with contextlib.suppress(ImportError):
        import openvino

        core = openvino.Core()
        model = core.compile_model(core.read_model(str(run / "artifacts/onnx/model.onnx")), "CPU")
        yield "openvino compiled_model", lambda: model(arrays)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
