"""What a call of a traced program costs by the way it is made, for a model so small that nothing else counts.

    python -m tests.measure.compiled.flat_calls [--write docs/measured/flat.md]

All ways take turns in one process on one thread; the median over turns, each the mean of 100 calls of one row.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from export.artifact import PROGRAM_FILE
from export.build import CaptureJob, capture
from export.completion import complete
from export.environment import machine
from export.errors import UserError
from export.exporters import standalone
from export.exporters.inductor import prepare
from export.program import FlatCall, checked_call, flat_call, load_exported
from tests.measure.speed import commit
from tests.models import SIGNATURES, make, source

MODELS = ("Mlp", "ConvNorm", "Masked")
_TURNS_COUNT, _CALLS_COUNT = 60, 100
_COMPILED: dict[str, Any] = {"fullgraph": True, "dynamic": True}


@dataclass(frozen=True)
class Options:
    """Where the page goes."""

    write: Path | None = None
    """A file; by default the page is printed."""


def main(options: Options) -> int:
    """Time every way for every model."""
    torch.set_num_threads(1)
    lines = [
        "# A call of a traced program",
        "",
        f"`python -m tests.measure.compiled.flat_calls` at {commit()}, one thread of {machine().cpu}, torch "
        f"{torch.__version__}: microseconds for a call of one row, and the ratio to eager's.",
        "",
        "| model | eager | `module()` | flat | `torch.compile(model)` | compiled `module()` | compiled flat "
        "| standalone |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(model) for model in MODELS),
        "",
        "`module()` is how `torch.export` hands a program out; flat is what `exported` calls; standalone is `compile`, "
        "where it can be. For a convolution PyTorch asks whether there are fewer than 16 rows; `compile` is the column "
        "before, then.",
    ]
    page = "\n".join(lines) + "\n"
    if options.write is None:
        print(page, end="")
    else:
        options.write.write_text(page)
    return 0


def _row(model: str) -> str:
    module, signature = make(model), complete(make(model), SIGNATURES[model], seed=0)
    tensors = [torch.from_numpy(array) for array in signature.example(signature.sizes_at(1), seed=0).values()]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        job = CaptureJob(
            source=source(model), signature=signature, seed=0, key="k", checkpoint_sha256="c", folder=folder
        )
        with torch.inference_mode(mode=False):
            capture(job)
        file = Path(folder) / PROGRAM_FILE
        ways: dict[str, Callable[..., Any]] = {
            "eager": module,
            "module()": load_exported(file).module(),
            "flat": checked_call(load_exported(file)),
            "torch.compile(model)": torch.compile(module, **_COMPILED),
            "compiled module()": torch.compile(load_exported(file).module(), **_COMPILED),
            "compiled flat": torch.compile(flat_call(load_exported(file)), **_COMPILED),
        }
        if (alone := _standalone(file, Path(folder))) is not None:
            ways["standalone"] = alone
        medians_us = _medians_us({name: partial(call, *tensors) for name, call in ways.items()})
    eager_us = medians_us["eager"]
    cells = [f"{median_us:.1f} ({median_us / eager_us:.2f}x)" for median_us in medians_us.values()]
    return f"| {model} | " + " | ".join([*cells, *(["-"] if alone is None else [])]) + " |"


def _standalone(file: Path, folder: Path) -> FlatCall | None:
    """None where the compiler takes sizes for granted."""
    cache, kept = folder / "cache", folder / "kept"
    prepare(cache)
    with torch.inference_mode(mode=False):
        try:
            standalone.build(load_exported(file), cache, kept)
        except UserError as error:
            print(error, file=sys.stderr)
            return None
    return standalone.load(load_exported(file), kept)


def _medians_us(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3 * _CALLS_COUNT):
            call()
    order = random.Random(0)
    for _ in range(_TURNS_COUNT):
        for name in order.sample(list(calls), len(calls)):
            began_s = time.monotonic()
            for _ in range(_CALLS_COUNT):
                calls[name]()
            samples[name].append((time.monotonic() - began_s) / _CALLS_COUNT)
    return {name: statistics.median(many) * 1e6 for name, many in samples.items()}


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
