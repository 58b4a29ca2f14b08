"""The same bits twice: what is seeded and set for it, and what is said where an operator cannot give them."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator

import numpy as np
import torch

from export.device import Device
from export.errors import UserError

_NO_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")


def seed_everything(seed: int, where: Device, *, deterministic: bool = True) -> None:
    """Seed Python, NumPy and torch; ask torch for strict float32, and for algorithms that give the same bits twice."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    where.prepare_deterministic()
    where.strict_float32()
    torch.use_deterministic_algorithms(deterministic)


@contextlib.contextmanager
def without_determinism_is_said() -> Iterator[None]:
    """PyTorch's error about an operator without a deterministic algorithm, with the flag that does without."""
    try:
        yield
    except RuntimeError as error:
        if (match := _NO_DETERMINISTIC.search(str(error))) is None:
            raise
        raise UserError(
            f"{match[1]} has no deterministic algorithm here: train with --train.no-deterministic, "
            "and the same seed no longer gives the same bits"
        ) from error
