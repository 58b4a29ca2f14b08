"""The least time that a call can take on this machine: its arithmetic, its memory traffic, or one call into C.

Work is counted from the traced program: floating-point operations of matrix products, convolutions and attention
(``torch.utils.flop_counter``; what else there is counts nothing), and the fewest bytes: every input, output and weight
once, of tables the rows that are looked up. Ceilings are measured here, at the thread count of the candidates, each on
data of the size at hand: a model that fits a cache is held to the cache's speed. A measured time below its floor means
that something was counted wrongly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench.timing.clock import now_s
from bench.timing.inputs import batch_sizes, first_call
from bench.timing.spec import BenchSpec
from export.arrays import to_torch
from export.device import Device, device
from export.signature import Signature
from export.task import task

Term = Literal["arithmetic", "memory", "dispatch"]
_COPIES_BYTES = tuple(1 << power for power in range(16, 28, 2))
_COPIES_BYTES_GPU = tuple(1 << power for power in range(16, 32, 2))
"""Working sets at which copying is timed: from 64 KiB to what no cache holds, 64 MiB and 1 GiB."""
_SIDES, _SIDES_GPU = (256, 512, 1024, 2048), (1024, 2048, 4096, 8192)
_LAUNCHES, _REPEATS, _LEAST_REPEATS = 200, 5, 3
_LEAST_S, _MOST_S = 0.02, 0.2
"""How long repeats last: at least all of them together; and at most, after which none is begun but the least number."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What this machine reached, at ``threads_count``."""

    threads_count: int
    flops_per_s: float
    """Float32 matrix product, of the best of several sizes."""
    bytes_per_s: dict[str, float]
    """Copying (read and write counted), by bytes of the working set."""
    dispatch_s: float
    """One call into compiled code that does nothing; on a GPU, a launch that nobody waits for."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one call of ``batch_rows`` must do at least."""

    batch_rows: int
    flops: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least time of a call, and why."""

    least_s: float
    term: Term


@dataclass(frozen=True, kw_only=True)
class RooflineJob:
    """Count the work of ``program`` at every batch size, and measure this machine."""

    program: str
    """The traced program's file, verified by the caller."""
    signature: Signature
    spec: BenchSpec
    device: str
    threads_counts: tuple[int, ...]
    samples: str | None = None
    """Real rows, and what functions drew, as safetensors."""


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The roofline of one model on one machine."""

    work: tuple[Work, ...]
    ceilings: tuple[Ceilings, ...]


def roofline(job: RooflineJob) -> Roofline:
    """Work by batch size, ceilings by thread count."""
    return replace(reached(job), work=counted(job).work)


@task
def counted(job: RooflineJob) -> Roofline:
    """The work alone, by batch size: nothing of it is timed."""
    work = tuple(_work(job, rows) for rows in batch_sizes(job.spec, job.signature))
    return Roofline(work=work, ceilings=())


@task
def reached(job: RooflineJob) -> Roofline:
    """The ceilings alone, by thread count."""
    ceilings = tuple(_ceilings(device(job.device), count) for count in job.threads_counts)
    return Roofline(work=(), ceilings=ceilings)


def floor(work: Work, ceilings: Ceilings) -> Floor:
    """The largest of the three terms; none can be hidden behind another by less than that."""
    sizes = sorted((int(size), rate) for size, rate in ceilings.bytes_per_s.items())
    bytes_per_s = max((rate for size, rate in sizes if size >= work.bytes), default=sizes[-1][1])
    terms: dict[Term, float] = {
        "arithmetic": work.flops / ceilings.flops_per_s,
        "memory": work.bytes / bytes_per_s,
        "dispatch": ceilings.dispatch_s,
    }
    term = max(terms, key=lambda name: terms[name])
    return Floor(least_s=terms[term], term=term)


def _work(job: RooflineJob, rows: int) -> Work:
    import torch
    from torch.utils import _pytree as pytree
    from torch.utils.flop_counter import FlopCounterMode

    from bench.timing.roofline.weights_read import WeightsRead
    from export.program import load_exported

    program = WeightsRead(load_exported(Path(job.program)))
    inputs = [to_torch(array) for array in first_call(job.signature, job.samples, rows).values()]
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        outputs = program.run(*inputs)
    tensors = [tensor for tensor in (*inputs, *pytree.tree_leaves(outputs)) if isinstance(tensor, torch.Tensor)]
    moved = program.bytes + sum(tensor.nbytes for tensor in tensors)
    return Work(batch_rows=rows, flops=counter.get_total_flops(), bytes=moved)


def _ceilings(where: Device, threads_count: int) -> Ceilings:
    import torch

    torch.set_num_threads(threads_count)
    where.strict_float32()
    copies, sides = (_COPIES_BYTES_GPU, _SIDES_GPU) if where.asynchronous else (_COPIES_BYTES, _SIDES)
    with torch.inference_mode():
        return Ceilings(
            threads_count=threads_count,
            flops_per_s=max(2 * side**3 / _matmul_s(side, where) for side in sides),
            bytes_per_s={str(size): size / _copy_s(size, where) for size in copies},
            dispatch_s=_dispatch_s(where),
        )


def _matmul_s(side: int, where: Device) -> float:
    import torch

    a, b, out = (torch.randn(side, side, device=where.torch_name) for _ in range(3))
    return _best_s(lambda: torch.mm(a, b, out=out), where)


def _copy_s(size: int, where: Device) -> float:
    """A copy whose source and target together hold ``size`` bytes."""
    import torch

    source = torch.randn(size // 8, device=where.torch_name)
    target = torch.empty_like(source)
    return _best_s(lambda: target.copy_(source), where)


def _dispatch_s(where: Device) -> float:
    """A call into compiled code that does nothing; on a GPU a launch that nobody waits for, since samples do not."""
    if not where.asynchronous:
        return _best_s(ctypes.CDLL(None).getppid, where)
    import torch

    scalar = torch.zeros(1, device=where.torch_name)
    wait = where.synchroniser()
    return min(_block_s(lambda: scalar.add_(1), wait, _LAUNCHES) for _ in range(_REPEATS))


def _best_s(call: Callable[[], Any], where: Device) -> float:
    """The shortest of repeated blocks, per call, by the device's own clock where it has one.

    A ceiling is what the machine can do at its best.
    """
    wait = where.synchroniser()
    call()
    one_s = max(_block_s(call, wait, 1), 1e-8)
    calls_count = max(1, int(_LEAST_S / _REPEATS / one_s))

    def block() -> None:
        for _ in range(calls_count):
            call()

    best_s, began_s = float("inf"), now_s()
    for repeat in range(_REPEATS):
        if repeat >= _LEAST_REPEATS and now_s() - began_s > _MOST_S:
            break
        device_s = where.timed_s(block)
        block_s = _block_s(call, wait, calls_count) if device_s is None else device_s / calls_count
        best_s = min(best_s, block_s)
    return best_s


def _block_s(call: Callable[[], Any], wait: Callable[[], None], calls_count: int) -> float:
    """Seconds per call of a block, until all of it is done."""
    wait()
    started = now_s()
    for _ in range(calls_count):
        call()
    wait()
    return (now_s() - started) / calls_count
