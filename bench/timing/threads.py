"""The change from one candidate to the next: what of the process must be set, and must come to rest."""

from __future__ import annotations

import time

from export.backend import LoadOptions

_SPIN_S = 0.005
"""ONNX Runtime's idle threads spin for about a millisecond, and would take a core from whoever is timed next."""


class ThreadSwitch:
    """The turn of another candidate: torch's number of threads is set, threads that spin are left to go to sleep."""

    def __init__(self) -> None:
        self._count: int | None = None
        self._spins = False

    def to(self, options: LoadOptions, *, spins: bool) -> bool:
        """Whether something changed, after which the next call starts threads, stops them or wakes them.

        ``spins`` is whether the candidate's idle threads spin.
        """
        spun, self._spins = self._spins, spins
        if spun:
            time.sleep(_SPIN_S)
        if options.threads_count == self._count:
            return spun
        import torch

        torch.set_num_threads(options.threads_count)
        self._count = options.threads_count
        return True
