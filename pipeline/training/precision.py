"""What a training computes in: strict float32, TF32 products, or autocast to 16 bits with its loss scaled or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from export.device import Device
from pipeline.training.spec import TrainSpec

_NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """How one training computes; weights, their gradients and the optimizer keep the dtypes that the model has."""

    def __init__(self, spec: TrainSpec, where: Device) -> None:
        self._kind, self._dtype = where.kind, _NARROW.get(spec.precision)
        self._plain = contextlib.nullcontext()
        self.scaler = torch.amp.GradScaler(where.kind) if spec.precision == "float16" else None
        """Multiplies the loss, so that float16's small gradients do not vanish."""

    def computing(self) -> AbstractContextManager[None]:
        """Around a forward pass and its loss."""
        if self._dtype is None:
            return self._plain
        return torch.autocast(self._kind, dtype=self._dtype)


@contextlib.contextmanager
def products(spec: TrainSpec, where: Device) -> Iterator[None]:
    """While a training runs, float32 is multiplied as it asks; strictly before and after.

    Raises:
        UserError: the device has no TF32.
    """
    if spec.precision == "tf32":
        where.allow_tf32()
    try:
        yield
    finally:
        where.strict_float32()
