"""A model that doubles, checks requests as every model does, and needs neither a bundle nor a runtime."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from export.signature import Signature, SizeRange
from export.tensor import TensorSpec
from pipeline.serving.calls import Arrays
from pipeline.serving.model import Model, most_marks
from pipeline.serving.protocol.refusal import Refusal, invalid

QUICK = 1_000_000


@dataclass(eq=False)
class Doubling(Model):
    """Negative values make it raise. It waits for ``gate`` unless it ``is_open``, and counts its calls' rows."""

    name: str = "doubling"
    version: str = "1"
    joins: bool = True
    most_rows: int = 8
    quick_rows: int = 0
    torch_threads: int | None = None
    spec: TensorSpec = field(default_factory=lambda: TensorSpec("x", "float32", ("batch", 2)))
    gate: threading.Event = field(default_factory=threading.Event)
    began: threading.Event = field(default_factory=threading.Event)
    """Set by every call as it begins."""
    is_open: bool = True
    call_s: float = 0.0
    rows: list[int] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    """Gets the version when it is closed."""

    def __post_init__(self) -> None:
        symbols = {dim for dim in self.spec.shape if isinstance(dim, str)}
        self.signature = Signature(
            inputs=(self.spec,), output_names=("y",), outputs=(TensorSpec("y", self.spec.dtype, self.spec.shape),),
            ranges={symbol: SizeRange(max=8) for symbol in symbols},
        )  # fmt: skip
        self.shipped = {"runtime": "numpy", "backend": "doubling"}
        self.batch = "batch" if "batch" in symbols else None
        self.most_marks = most_marks(self.signature)
        self._names = self.signature.input_names
        self._known: dict[tuple[tuple[int, ...], ...], int] = {}
        self._pointers: list[TensorSpec] = []
        self.close = partial(self.closed.append, self.version)

    def __call__(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Arrays:
        self.began.set()
        if not self.is_open:
            assert self.gate.wait(20)
        time.sleep(self.call_s)
        self.rows.append(len(arrays[0]))
        self.threads.append(threading.current_thread())
        if (arrays[0] < 0).any():
            raise ValueError("a secret of the model's")
        return [arrays[0] * 2]

    def blame(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Refusal | None:
        return invalid("input 'x' must lie above -10") if (arrays[0] < -10).any() else None
