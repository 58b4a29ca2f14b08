"""Cold start: from a process that does not exist to the first answer, in parts; and how much memory it takes.

The files lie in the page cache, as on a host that restarts a service; a first start after boot reads the disk as well.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path

from bench.timing.clock import now_s
from export import registry
from export.artifact import read_artifact
from export.backend import LoadOptions
from export.build import Source
from export.device import device
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
    """What the GPU had less of at the end; None without one."""

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
    free_before = where.free_bytes()
    loading = now_s()
    runner = registry.load(folder, job.options, job.source.module if job.source else None)
    loaded = now_s()
    smallest = job.batch_rows[0]
    inputs = runner.signature.example(runner.signature.sizes_at(smallest), seed=0)
    calling = now_s()
    runner(inputs)
    answered = now_s()
    first_bytes = _peak_bytes()
    for rows in job.batch_rows:
        runner(runner.signature.example(runner.signature.sizes_at(rows), seed=0))
    free_after = where.free_bytes()
    return ColdStart(
        start_s=entered_s - job.began_s,
        import_s=imported - began,
        load_s=loaded - loading,
        first_call_s=answered - calling,
        first_bytes=first_bytes,
        peak_bytes=_peak_bytes(),
        device_bytes=None if free_before is None or free_after is None else free_before - free_after,
    )


def _peak_bytes() -> int | None:
    """Linux's high-water mark of resident memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10
