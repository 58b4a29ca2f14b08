"""Right artifacts, in all the variety that is honest: backends, optimisation levels, threads, weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.parity.report import ParityReport
from bench.parity.spec import ParitySpec
from export.backend import LoadOptions, RuntimeValue
from tests.faults.models import SIGNATURES, TRACEABLE, source
from tests.faults.planted import Planted
from tests.model_run import ModelRun

SEEDS = tuple(range(11, 19))
COMPILED_SEEDS = SEEDS[:1]
"""Builds of ``compile`` and ``aotinductor`` take ten seconds and more each."""
_LEVELS: tuple[Literal["off", "basic", "extended", "all"], ...] = ("off", "basic", "extended", "all")


@dataclass(frozen=True)
class Variant:
    """One honest artifact, loaded in one way."""

    model: str
    seed: int
    backend: str
    options: LoadOptions

    @property
    def name(self) -> str:
        level = f" {self.options.runtime.get('optimization', 'all')}" if self.backend == "onnx" else ""
        return f"{self.model} {self.seed} {self.backend}{level} x{self.options.threads_count}"


def variants(seeds: tuple[int, ...], compiled_seeds: tuple[int, ...]) -> Iterator[tuple[str, int, list[Variant]]]:
    """Model, weights' seed, and every way to run it."""
    for model in TRACEABLE:
        for seed in seeds:
            built = ["eager", "torchscript", "exported", "onnx"]
            built += ["compile", "aotinductor"] if seed in compiled_seeds else []
            found = []
            for backend in built:
                # Inductor's C++ depends on the number of threads: what compile shipped for two is not there for one.
                for threads_count in (2,) if backend == "compile" else (1, 2):
                    for level in _LEVELS if backend == "onnx" else ("all",):
                        runtime: dict[str, RuntimeValue] = {} if level == "all" else {"optimization": level}
                        options = LoadOptions(threads_count=threads_count, runtime=runtime)
                        found.append(Variant(model, seed, backend, options))
            yield model, seed, found


def judge(base: Path, model: str, seed: int, found: list[Variant]) -> Iterator[tuple[Variant, ParityReport, ModelRun]]:
    """Build each backend once, judge each variant."""
    run = ModelRun(source(model, seed), SIGNATURES[model], base / f"{model}-{seed}", ParitySpec())
    for variant in found:
        folder = run.folder / variant.backend
        if not folder.exists():
            run.build(variant.backend, folder)
        yield variant, run.judge(folder, variant.options), run


def as_planted(run: ModelRun, variant: Variant) -> Planted:
    """For the criteria of others, who see the same files."""
    return Planted(run.folder / variant.backend, None)
