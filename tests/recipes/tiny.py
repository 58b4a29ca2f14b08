"""A model small enough that its bundle can be committed: ``tests/golden/`` keeps one of every version of the format."""

from __future__ import annotations

import torch
from torch import nn

from bench.parity.spec import ParitySpec
from bench.timing.spec import BenchSpec
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe


def model() -> nn.Module:
    """``(batch, 4)`` to ``(batch, 3)``."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def recipe() -> Recipe:
    """ONNX alone, measured shortly."""
    return Recipe(
        name="tiny",
        model=model,
        signature=Signature(
            inputs=(TensorSpec("x", "float32", ("batch", 4)),), output_names=("y",), ranges={"batch": SizeRange(max=64)}
        ),
        backends=("eager", "onnx"),
        licence="Apache-2.0",
        parity=ParitySpec(rows_count=16),
        bench=BenchSpec(
            batch_rows=(1, 32), processes_count=2, rounds_count=5, callers_s=0.02, calls_count=10, cold_starts_count=1
        ),
    )
