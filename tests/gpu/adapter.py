"""The few functions of the project that steps call in their own process; everything else goes through its commands.

Importing this file imports no torch: how long that takes is part of a cold start.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.backend import RuntimeValue

Arrays = Mapping[str, np.ndarray[Any, Any]]
_BLOCK_S = 0.002


def artifacts(run: Path) -> dict[str, Path]:
    """The folders of a run's artifacts by name."""
    return {path.parent.name: path.parent for path in sorted(run.glob("artifacts/*/artifact.json"))}


def load(folder: Path, device: str, module: Callable[[], nn.Module] | None = None, *, cuda_graph: bool = False) -> Any:
    """A runner; ``module`` builds the model for ``eager``, ``cuda_graph`` captures its bound calls."""
    from export.backend import LoadOptions
    from export.registry import load as load_artifact

    runtime: dict[str, RuntimeValue] = {"cuda_graph": True} if cuda_graph else {}
    return load_artifact(folder, LoadOptions(device=device, threads_count=1, runtime=runtime), module)


def example(runner: Any, rows: int) -> Arrays:
    """Inputs of so many rows, on the host."""
    inputs: Arrays = runner.signature.example(runner.signature.sizes_at(rows), seed=0)
    return inputs


def on_device(arrays: Arrays, device: str) -> dict[str, torch.Tensor]:
    """The same as tensors."""
    import torch

    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}


def bound(runner: Any, tensors: Mapping[str, torch.Tensor]) -> Callable[[], Any]:
    """The fast path: checked once, reading these very tensors."""
    run: Callable[[], Any] = runner.bind(tensors).run
    return run


def product_block_s(run: Callable[[], Any], wait: Callable[[], None]) -> float:
    """Seconds per call as the project's own measurement takes them: the median of its blocks."""
    from bench.timing.block import Block

    block = Block([run] * 4, wait)
    block.warm_up(5, 0.05, 1.0, _BLOCK_S)
    return statistics.median(block.sample_s() for _ in range(20))


def trained_module(recipe: str, run: Path) -> nn.Module:
    """A built-in recipe's model with a run's weights; on the CPU, in eval mode."""
    from safetensors.torch import load_file

    module: nn.Module = importlib.import_module(f"pipeline.recipes.{recipe}").recipe().model()
    module.load_state_dict(load_file(run / "checkpoint" / "weights.safetensors"))
    return module.eval()
