"""What `pipeline.tune` does not search, measured: AOTInductor by size, and large batches in chunks.

    python -m tests.measure.unsearched [RECIPE ...] [--processes 5] [--out FOLDER]

A package compiled for one size would have to travel once per size, with its weights frozen into the code or not; one
whose smallest linear layers are written out (a few products, which Inductor fuses) instead of handed to BLAS serves
every size; a batch in chunks needs a caller that cuts it. Prints Markdown; docs/measured/timing.md holds what one
machine said.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from bench.parity.report import ParityReport
from bench.stats.effects import mean_ratio, paired_logs
from bench.timing.block import Block
from export import registry
from export.arrays import to_torch
from export.artifact import PROGRAM_FILE, read_artifact
from export.backends import aotinductor
from export.device import HOST
from export.environment import cores_count
from export.exporters.inductor import prepare
from export.program import load_exported, quiet
from export.record import read
from export.task import task
from export.worker import Failed, Workspace
from tests.measure.targets import built

_BATCHES = {"sentence": (1, 32)}
_CHUNKED = {"sentence": (256, 32)}
"""Rows, and rows of a chunk."""
_ROUNDS = 12
_FEW_WEIGHTS = 8


@dataclass(frozen=True)
class Options:
    """What to measure."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ("seed", "cnn", "sentence")
    processes: int = 5
    out: Path = Path("artifacts/targets")


@dataclass(frozen=True, kw_only=True)
class TimingJob:
    """One fresh process: packages by name, or the ONNX artifact whole and in chunks."""

    run: str
    rows: int
    packages: dict[str, str]
    chunk_rows: int = 0


def main(options: Options) -> int:
    """Two tables per recipe."""
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch) / "inductor")
        workspace = Workspace(folder=Path(scratch) / "desk")
        for name in options.recipes:
            run = built(name, options.out)
            print(f"\n### {name}: {options.processes} processes\n")
            print("| batch | what, against what | times as long | 95 % |\n|---|---|---|---|")
            for rows in _BATCHES.get(name, (1, 32, 1024)):
                packages = _packages(run, rows, Path(scratch) / f"{name}-{rows}")
                _show(TimingJob(run=str(run), rows=rows, packages=packages), workspace, options.processes)
            rows, chunk_rows = _CHUNKED.get(name, (1024, 128))
            _show(TimingJob(run=str(run), rows=rows, packages={}, chunk_rows=chunk_rows), workspace, options.processes)
    return 0


def _packages(run: Path, rows: int, folder: Path) -> dict[str, str]:
    """The run's own package, and others of the same program: the first is for every size."""
    folder.mkdir(parents=True)
    torch.set_num_threads(cores_count())
    tensors = tuple(to_torch(one) for one in _inputs(run, rows).values())
    packages = {"every size": str(run / "artifacts" / "aotinductor" / aotinductor.FILE)}
    source = run / "program" / PROGRAM_FILE
    with quiet(), torch.no_grad():
        static = torch.export.export(load_exported(source).module(), tensors)
        variants = {"this size": (static, {}), "this size, frozen": (static, {"freezing": True})}
        if any(one.ndim == 2 and one.numel() <= _FEW_WEIGHTS for one in load_exported(source).state_dict.values()):
            written = load_exported(source).run_decompositions({torch.ops.aten.linear.default: _written_out})
            variants["small layers written out"] = (written, {})
        for name, (program, settings) in variants.items():
            packages[name] = torch._inductor.aoti_compile_and_package(
                program, package_path=str(folder / f"{len(packages)}.pt2"), inductor_configs=settings
            )
    return packages


def _written_out(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    if weight.numel() > _FEW_WEIGHTS:
        return NotImplemented
    products = (x.unsqueeze(-2) * weight).sum(-1)
    return products if bias is None else products + bias


def _inputs(run: Path, rows: int) -> dict[str, Any]:
    signature = read_artifact(run / "artifacts" / "onnx").signature
    return dict(signature.example(signature.sizes_at(rows), seed=0))


def _show(job: TimingJob, workspace: Workspace, processes: int) -> None:
    by_name: dict[str, list[list[float]]] = {}
    for _ in range(processes):
        end = workspace.run(time_them, job, "time")
        if isinstance(end, Failed):
            raise RuntimeError(f"{end.cause}: {end.log.read_text()}")
        for name, samples_s in end.result.items():
            by_name.setdefault(name, []).append(samples_s)
    first = next(iter(by_name))
    for name, processes_s in by_name.items():
        if name != first:
            ratio = mean_ratio(paired_logs(processes_s, by_name[first]))
            print(f"| {job.rows} | {name}, against {first} | {ratio.spelled()} |")


@task
def time_them(job: TimingJob) -> dict[str, list[float]]:
    """Seconds per call in rounds of random order."""
    torch.set_num_threads(cores_count())
    calls = _package_calls(job) if job.packages else _chunk_calls(job)
    with torch.inference_mode():
        blocks = {name: Block([call], lambda: None) for name, call in calls.items()}
        for block in blocks.values():
            block.warm_up(5, 0.05, 3.0, 0.002)
        samples: dict[str, list[float]] = {name: [] for name in blocks}
        for _ in range(_ROUNDS):
            for name in random.sample(list(blocks), len(blocks)):
                samples[name].append(blocks[name].sample_s())
    return samples


def _package_calls(job: TimingJob) -> dict[str, Callable[[], Any]]:
    tensors = [to_torch(one) for one in _inputs(Path(job.run), job.rows).values()]
    calls: dict[str, Callable[[], Any]] = {}
    for name, package in job.packages.items():
        calls[name] = partial(_flat, aotinductor.open_package(Path(package), HOST), tensors)
    expected, *others = (call()[0] for call in calls.values())
    for other in others:
        torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-5)
    return calls


def _flat(run: Callable[[list[Any]], Any], tensors: list[Any]) -> Any:
    """A list for each call: the loader empties it."""
    return run(list(tensors))


def _chunk_calls(job: TimingJob) -> dict[str, Callable[[], Any]]:
    """Putting the chunks' answers together is not counted: chunking at its best."""
    run = Path(job.run)
    runner = registry.load(run / "artifacts" / "onnx", read(ParityReport, run / "parity" / "onnx.json").options)
    arrays = _inputs(run, job.rows)
    whole = runner.bind(arrays).run
    parts = [
        runner.bind({name: array[start : start + job.chunk_rows].copy() for name, array in arrays.items()}).run
        for start in range(0, job.rows, job.chunk_rows)
    ]

    def chunks() -> None:
        for part in parts:
            part()

    return {"whole": whole, f"in chunks of {job.chunk_rows}": chunks}


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
