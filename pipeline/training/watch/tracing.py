"""A trace of a few steps by PyTorch's profiler: what ran when, for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.run_folder import TRACE

_STEPS_COUNT = 5


class Tracing:
    """Traces five steps after the first two, once; costs nothing where it is not enabled."""

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self._profiler: torch.profiler.profile | None = None
        if enabled:
            self._profiler = torch.profiler.profile(
                schedule=torch.profiler.schedule(wait=1, warmup=1, active=_STEPS_COUNT, repeat=1),
                on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(folder / TRACE)),
            )
            self._profiler.start()

    def step(self) -> None:
        """The next step begins."""
        if self._profiler is not None:
            self._profiler.step()

    def close(self) -> None:
        """Write what was traced, if there were too few steps for all of it."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
