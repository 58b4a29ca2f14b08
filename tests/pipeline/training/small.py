"""A training of milliseconds with all the state there is, and a process that does it until it is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from export.device import HOST
from export.errors import UserError
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Data, Recipe, Split, TrainSpec
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.train import train
from pipeline.training.watch.progress import Progress
from tests.conftest import ROOT

ROWS_COUNT, BATCH_ROWS, EPOCHS = 60, 8, 3
STEPS_COUNT = 8 * EPOCHS


class Net(nn.Module):
    """``(batch, 6)`` to logits ``(batch, 3)``; batch norm and dropout, so that buffers and draws matter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.inner(x))
        return result


def rows(seed: int = 0, count: int = ROWS_COUNT) -> Split:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return Split(inputs={"x": x}, targets=x[:, :3].argmax(1))


class Augmented(Dataset[Any]):
    """Rows by number, each with noise from all three generators."""

    def __init__(self) -> None:
        self._rows = rows()

    def __len__(self) -> int:
        return self._rows.rows_count

    def __getitem__(self, number: int) -> Any:
        import random

        noise = torch.randn(6) + float(np.random.randn()) + random.random()
        return self._rows.inputs["x"][number] + 0.1 * noise, self._rows.targets[number]


class Stream(IterableDataset[Any]):
    """The same, one after the other."""

    def __iter__(self) -> Any:
        source = Augmented()
        return (source[number] for number in range(len(source)))


def data(train: str = "memory") -> Data:
    """Training rows in one of the forms that a recipe may give."""
    forms: dict[str, Callable[[], Any]] = {
        "memory": rows,
        "numbered": Augmented,
        "streamed": Stream,
        "loader": lambda: DataLoader(Augmented(), batch_size=BATCH_ROWS, shuffle=True),
    }
    return Data(train=forms[train](), validation=rows(1, 20))


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)


def slow_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Slow enough to be killed between two steps; draws from NumPy, which must be restored too."""
    time.sleep(0.004)
    return loss(outputs, targets) * (1 + 1e-3 * np.random.rand())


def recipe(form: str = "memory", **settings: Any) -> Recipe:
    spec = TrainSpec(**{"epochs": EPOCHS, "batch_rows": BATCH_ROWS, "print_every_epochs": 1} | settings)
    return Recipe(
        name="small",
        model=Net,
        signature=Signature(inputs=(TensorSpec("x", "float32", ("batch", 6)),), ranges={"batch": SizeRange(max=64)}),
        data=lambda: data(form),
        loss=loss,
        metrics={"accuracy": lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean())},
        train=spec,
        seed=3,
    )


def everything(form: str, workers_count: int = 0) -> Recipe:
    """All that has state at once."""
    settings: dict[str, Any] = {
        "optimizer": "adamw", "decay": "matrices", "weight_decay": 0.01, "clip_norm": 1.0, "accumulate": 2,
        "schedule": "cosine", "warmup_steps": 5, "ema_decay": 0.9, "keep": "best", "log_every_steps": 1,
        "save_every_steps": 3, "workers_count": workers_count, "steps_per_epoch": 8,
    }  # fmt: skip
    return replace(recipe(form, **settings), loss=slow_loss)


def run(wanted: Recipe, folder: Path, lines: list[str] | None = None, key: str = "key") -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    said = [] if lines is None else lines
    return train(wanted, HOST, folder, key, Progress(say=said.append, advance=lambda done, total, note: None))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "weights.safetensors"))


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def begin(wanted: Callable[..., Recipe], arguments: tuple[Any, ...], folder: Path) -> BaseProcess:
    """A process of its own, leading a group, that trains into ``folder`` and writes what it says beside it."""
    return begun(_train, (wanted, arguments, folder), folder)


def begun(work: Callable[..., None], arguments: tuple[Any, ...], folder: Path) -> BaseProcess:
    """A process of its own, leading a group."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # all that takes a second to import, once
    process = context.Process(target=_alone, args=(work, arguments))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        process.start()
    return process


def kill_at(process: BaseProcess, folder: Path, lines_count: int) -> None:
    """SIGKILL to the group when ``metrics.jsonl`` has so many lines."""
    wait_for_lines(process, folder, lines_count)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def wait_for_lines(process: BaseProcess, folder: Path, lines_count: int) -> None:
    """Until ``metrics.jsonl`` has so many lines."""
    path, deadline_s = folder / "metrics.jsonl", time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines_count:
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline_s, "training did not get that far"
        time.sleep(0.001)


def _alone(work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    work(*arguments)


def _train(wanted: Callable[..., Recipe], arguments: tuple[Any, ...], folder: Path) -> None:
    torch.set_num_threads(1)
    with folder.with_suffix(".log").open("a", buffering=1) as log:
        said = Progress(say=lambda text: print(text, file=log), advance=lambda done, total, note: None)
        try:
            train(wanted(*arguments), HOST, folder, "key", said)
        except UserError as error:
            print(f"error: {error}", file=log)
            raise SystemExit(2) from error
