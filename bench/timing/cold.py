"""Cold start: from a process that does not exist to the first answer, in parts; and how much memory it takes.

The files lie in the page cache, as on a host that restarts a service; a first start after boot reads the disk as well.
"""

from __future__ import annotations

import importlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench.timing.clock import now_s
from bench.timing.inputs import first_call
from export import registry
from export.artifact import read_artifact
from export.backend import LoadOptions
from export.build import Source
from export.device import Device, device
from export.gpus.nvml import Board
from export.task import task


@dataclass(frozen=True, kw_only=True)
class ColdJob:
    """Answer once, then once at every batch size."""

    artifact: str
    options: LoadOptions
    source: Source | None
    """For eager alone."""
    batch_rows: tuple[int, ...]
    began_s: float
    """When the parent started this process, by the machine's monotonic clock."""
    samples: str | None = None
    """Real rows, and what functions drew, as safetensors."""


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """One fresh process."""

    start_s: float
    """The interpreter, and what reads the job."""
    import_s: float
    """The runtime's modules."""
    load_s: float
    """Hashes verified, the artifact made callable; for eager, the model built and its weights read."""
    first_call_s: float
    """At the smallest batch size, checked, NumPy in and out."""
    first_bytes: int | None
    """Peak resident memory at the first answer; None where the system does not tell."""
    peak_bytes: int | None
    """The same after one call at every batch size."""
    device_bytes: int | None
    """What the process held of the GPU at the end, its context included; None without one, or where NVML is silent."""

    @property
    def total_s(self) -> float:
        """From nothing to the first answer."""
        return self.start_s + self.import_s + self.load_s + self.first_call_s


@task
def first_answer(job: ColdJob) -> ColdStart:
    """Import, load, answer."""
    entered_s = time.monotonic()
    folder, where = Path(job.artifact), device(job.options.device)
    modules = registry.get(read_artifact(folder).backend).modules
    began = now_s()
    for name in modules:
        importlib.import_module(name)
    imported = now_s()
    memory = DeviceMemory(where)
    loading = now_s()
    runner = registry.load(folder, job.options, job.source.module if job.source else None)
    loaded = now_s()
    smallest = job.batch_rows[0]
    inputs = first_call(runner.signature, job.samples, smallest)
    calling = now_s()
    runner(inputs)
    answered = now_s()
    first_bytes = _peak_bytes()
    for rows in job.batch_rows:
        runner(first_call(runner.signature, job.samples, rows))
    return ColdStart(
        start_s=entered_s - job.began_s,
        import_s=imported - began,
        load_s=loaded - loading,
        first_call_s=answered - calling,
        first_bytes=first_bytes,
        peak_bytes=_peak_bytes(),
        device_bytes=memory.taken_bytes(),
    )


class DeviceMemory:
    """What this process takes of its GPU from now on, as NVML counts it: reading that makes no CUDA context.

    By process where NVML lists this one, else (a container whose process numbers are its own) by what all hold.
    """

    def __init__(self, where: Device) -> None:
        board = where.board()
        self._board = board if isinstance(board, Board) else None
        self._used_bytes = self._board.used_bytes() if self._board else None
        self._others = set(self._board.process_bytes() or ()) if self._board else set()

    def taken_bytes(self) -> int | None:
        """What it holds by now; None without a GPU, or where NVML does not tell."""
        if self._board is None:
            return None
        pid = os.getpid()
        # A process of this number that held memory before is another one, of the machine outside a container.
        own_bytes = (self._board.process_bytes() or {}).get(pid) if pid not in self._others else None
        if own_bytes is not None:
            return own_bytes
        used_bytes = self._board.used_bytes()
        return None if used_bytes is None or self._used_bytes is None else max(0, used_bytes - self._used_bytes)


def _peak_bytes() -> int | None:
    """Linux's high-water mark of resident memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10
