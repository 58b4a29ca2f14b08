"""Training: the same bits twice by the project's own command, plain against ``--train.fast``, and what a step costs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from export.gpus.graph import CALLS_BEFORE
from tests.gpu import clocks
from tests.gpu.models import Cnn
from tests.gpu.step import Context, python

_ROWS, _WIDTH = 256, 64
_SMALL_ROWS, _SMALL_WIDTH = 8, 8
_STEPS_COUNT = 20


def train(context: Context) -> None:
    """Bits first, then the ways to take a step."""
    for recipe in ("seed",) if context.small else ("seed", "digits"):
        with context.attempt("twice", recipe=recipe) as found:
            found.update(_twice(context, recipe))
    for recipe in ("seed",) if context.small else ("seed", "digits"):
        with context.attempt("at once", recipe=recipe) as found:
            found.update(_at_once(context, recipe))
    ways = ("float32",) if context.small else ("float32", "tf32", "bfloat16", "float32 graph", "bfloat16 graph")
    for way in ways:
        with context.attempt("steps", way=way) as found:
            found.update(_steps(context, way))


def _twice(context: Context, recipe: str) -> dict[str, object]:
    """Two trainings in output folders of their own."""
    digests, seconds = [], []
    for name in ("one", "two"):
        out = context.work / f"train-{recipe}-{name}"
        started = time.monotonic()
        done = python(
            "-m", "pipeline.all", recipe, "--device", context.device, "--only", "train", "--out", str(out), "--quiet"
        )  # fmt: skip
        seconds.append(time.monotonic() - started)
        if done.code:
            raise RuntimeError(f"pipeline.all: {done.cause}")
        (weights,) = out.glob("*/*/checkpoint/weights.safetensors")
        digests.append(hashlib.sha256(weights.read_bytes()).hexdigest())
    return {"same_bits": digests[0] == digests[1], "command_s": min(seconds), "weights_sha256": digests[0][:16]}


def _at_once(context: Context, recipe: str) -> dict[str, object]:
    """The same training operator by operator and by CUDA graphs: losses, and rows a second at the end."""
    figures: dict[str, object] = {}
    for name, flags in (("plain", []), ("fast", ["--train.fast"])):
        out = context.work / f"train-{recipe}-{name}"
        done = python(
            "-m", "pipeline.all", recipe, "--device", context.device, "--only", "train", "--out", str(out), "--quiet",
            "--train.epochs", "200", *flags,
        )  # fmt: skip
        if done.code:
            raise RuntimeError(f"pipeline.all {name}: {done.cause}")
        (folder,) = (path.parent for path in out.glob("*/*/checkpoint/checkpoint.json"))
        figures[f"{name}_loss"] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["train_loss"]
        figures[f"{name}_rows_per_s"] = json.loads((folder / "speed.jsonl").read_text().splitlines()[-1])["rows_per_s"]
    return figures


def _steps(context: Context, way: str) -> dict[str, object]:
    """Milliseconds of one optimiser step, and the loss after twenty of them on the same rows."""
    rows, width = (_SMALL_ROWS, _SMALL_WIDTH) if context.small else (_ROWS, _WIDTH)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = way == "tf32"
    module = Cnn(width).to(context.device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, capturable="graph" in way)
    x = torch.randn(rows, 3, 32, 32, device=context.device)
    labels = torch.randint(10, (rows,), device=context.device)
    kept: dict[str, torch.Tensor] = {}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _cast(context.device, way):
            loss = nn.functional.cross_entropy(module(x), labels)
        loss.backward()
        optimizer.step()
        kept["loss"] = loss.detach()

    if context.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run: Callable[[], Any] = clocks.captured(step) if "graph" in way else step
    for _ in range(_STEPS_COUNT - (CALLS_BEFORE if "graph" in way else 0)):
        run()
    loss = float(kept["loss"])
    seconds = clocks.block_s(run, clocks.waiter(context.device), least_s=0.1, repeats_count=3)
    peak_mib = torch.cuda.max_memory_allocated() / 2**20 if context.device == "cuda" else None
    return {"step_ms": seconds * 1e3, "rows_per_s": rows / seconds, "loss": loss, "peak_mib": peak_mib}


def _cast(device: str, way: str) -> AbstractContextManager[Any]:
    """bfloat16 where it is wanted; its cache of cast weights must not outlive a captured step."""
    if not way.startswith("bfloat16"):
        return nullcontext()
    return torch.autocast(device, torch.bfloat16, cache_enabled="graph" not in way)
