"""The training loop against plain loops of the seed document, of small batches and of a CNN, in processor time.

    python -m tests.measure.training.plain [--rounds N] [--fast]

Both take turns; the ratio is the median over rounds of a round's own ratio. Nothing is printed in either. ``--fast`` is
for ``--train.fast``: its ratio is of epochs, without the first ones, in which steps are compiled.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from export.device import HOST
from pipeline.data import Data, Split
from pipeline.recipe import Recipe, TrainSpec
from pipeline.recipes import digits, seed
from pipeline.training.loop import Loop
from pipeline.training.watch.progress import Progress

_SILENT = Progress(say=lambda text: None, advance=lambda done, total, note: None)


def ours(recipe: Recipe, data: Data) -> float:
    """Processor seconds of one training by the loop, files and all."""
    assert isinstance(recipe.train, TrainSpec)
    torch.manual_seed(recipe.seed)
    loop = Loop(recipe, recipe.train, data, recipe.model(), HOST)
    with tempfile.TemporaryDirectory() as folder:
        begun_s = time.process_time()
        loop.run(Path(folder), "key", _SILENT)
        return time.process_time() - begun_s


def plain(recipe: Recipe, data: Data) -> float:
    """The same by a loop as anybody would write it, which reads the loss of every step."""
    spec, rows = recipe.train, data.train
    assert isinstance(spec, TrainSpec)
    assert isinstance(rows, Split)
    assert recipe.loss is not None
    torch.manual_seed(recipe.seed)
    module: nn.Module = recipe.model()
    optimizer = torch.optim.SGD(module.parameters(), lr=spec.lr)
    (inputs,) = rows.inputs.values()
    begun_s = time.process_time()
    for _ in range(spec.epochs):
        size = spec.batch_rows or rows.rows_count
        order = torch.randperm(rows.rows_count) if spec.batch_rows else None
        for start in range(0, rows.rows_count, size):
            taken = slice(None) if order is None else order[start : start + size]
            loss = recipe.loss(module(inputs[taken]), rows.targets[taken])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
    return time.process_time() - begun_s


def at_once(recipe: Recipe, data: Data) -> float:
    """Processor seconds of a training with ``--train.fast``, as if it never compiled: of its epochs after the first."""
    assert isinstance(recipe.train, TrainSpec)
    marks: list[float] = []
    spec = replace(recipe.train, fast=True, epochs=recipe.train.epochs + 2, print_every_epochs=1)
    said = Progress(say=lambda text: marks.append(time.process_time()), advance=lambda done, total, note: None)
    torch.manual_seed(recipe.seed)
    loop = Loop(recipe, spec, data, recipe.model(), HOST)
    with tempfile.TemporaryDirectory() as folder:
        loop.run(Path(folder), "key", said)
    return marks[-1] - marks[1]


def ratios(loop: Callable[[Recipe, Data], float], recipe: Recipe, rounds_count: int) -> list[float]:
    """A loop's time in parts of the plain one's, by round."""
    assert recipe.data is not None
    data = recipe.data()
    for turn in (loop, plain):
        turn(recipe, data)
    return [loop(recipe, data) / plain(recipe, data) for _ in range(rounds_count)]


def main() -> int:
    """Print a ratio for each kind of training."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--fast", action="store_true")
    arguments = parser.parse_args()
    loop = at_once if arguments.fast else ours
    torch.set_num_threads(1)
    small, cnn = seed.recipe(), digits.recipe()
    cnn = replace(cnn, data=lambda: Data(train=digits.data().train))
    for name, recipe, settings in (
        ("the seed document: 50 epochs of all rows", small, {}),
        ("500 epochs of all rows", small, {"epochs": 500}),
        ("50 epochs of 16 rows a step", small, {"batch_rows": 16}),
        ("digits: an epoch of 64 rows a step", cnn, {"epochs": 1, "batch_rows": 64}),
    ):
        spec = TrainSpec(**{"epochs": 50, "optimizer": "sgd", "lr": 0.1} | settings)  # type: ignore[arg-type]
        values = sorted(ratios(loop, replace(recipe, train=spec), arguments.rounds))
        spread = f"{values[len(values) // 4]:.2f} to {values[3 * len(values) // 4]:.2f}"
        print(f"{name}: {statistics.median(values):.2f} times the plain loop (half of the rounds: {spread})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
