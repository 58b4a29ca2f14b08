"""The same bits twice: what is seeded and set for it, and what is said where an operator cannot give them."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from export.device import Device
from export.errors import UserError

_NO_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")


@dataclass(frozen=True)
class RandomState:
    """The states of Python's, NumPy's and torch's generators on the host, at one moment."""

    python: Any
    numpy: Any
    torch: torch.Tensor

    @classmethod
    def now(cls) -> RandomState:
        """As they are."""
        return cls(random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state())

    @classmethod
    def of(cls, *numbers: int) -> RandomState:
        """A function of these numbers alone; the generators stay as they are."""
        before = cls.now()
        seed_generators(*numbers)
        state = cls.now()
        before.restore()
        return state

    def drawn_on_host(self, before: RandomState) -> str | None:
        """Whose generator went on since ``before``, of those that are not torch's: ``Python's random``, ``NumPy``."""
        if self.python != before.python:
            return "Python's random"
        return "NumPy" if repr(self.numpy) != repr(before.numpy) else None

    def restore(self) -> None:
        """Set the generators to it."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)


def seed_generators(*numbers: int) -> None:
    """Seed the host's three generators by several numbers at once, such as a seed, an epoch and a row."""
    for_python, for_numpy, for_torch = (int(word) for word in np.random.SeedSequence(numbers).generate_state(3))
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)


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
