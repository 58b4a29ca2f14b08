"""The least time that a call can take on this machine: its arithmetic, its memory traffic, or one call into C.

Work is counted from the traced program: floating-point operations of matrix products, convolutions and attention
(``torch.utils.flop_counter``; what else there is counts nothing), and the fewest bytes: every weight, input and output
once. Ceilings are measured here, at the thread count of the candidates, each on data of the size at hand: a model that
fits a cache is held to the cache's speed. A measured time below its floor means that something was counted wrongly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.timing.clock import now_s, synchroniser
from bench.timing.inputs import batch_sizes
from bench.timing.spec import BenchSpec
from export.arrays import to_torch
from export.record import from_json
from export.signature import Signature

Term = Literal["arithmetic", "memory", "dispatch"]
_COPIES_BYTES = {
    "cpu": tuple(1 << power for power in range(16, 28, 2)),
    "cuda": tuple(1 << power for power in range(16, 32, 2)),
}
"""Working sets at which copying is timed: from 64 KiB to what no cache holds, 64 MiB and 1 GiB."""
_SIDES = (256, 512, 1024, 2048)
_LEAST_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What this machine reached, at ``threads_count``."""

    threads_count: int
    flops_per_s: float
    """Float32 matrix product, of the best of several sizes."""
    bytes_per_s: dict[str, float]
    """Copying (read and write counted), by bytes of the working set."""
    dispatch_s: float
    """One call into compiled code that does nothing; on CUDA, one empty kernel, waited for."""


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


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Of one model on one machine."""

    work: tuple[Work, ...]
    ceilings: tuple[Ceilings, ...]


def roofline(payload: object) -> Roofline:
    """Job: work by batch size, ceilings by thread count."""
    job = from_json(RooflineJob, payload)
    return Roofline(
        work=tuple(_work(Path(job.program), job.signature, rows) for rows in batch_sizes(job.spec, job.signature)),
        ceilings=tuple(_ceilings(job.device, count) for count in job.threads_counts),
    )


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


def _work(program: Path, signature: Signature, rows: int) -> Work:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from export.program import load_exported

    exported = load_exported(program)
    inputs = [to_torch(array) for array in signature.example(signature.sizes_at(rows), seed=0).values()]
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        outputs = exported.module()(*inputs)
    weights = [*exported.state_dict.values(), *exported.constants.values()]
    tensors = [one for one in (*weights, *inputs, *_flat(outputs)) if isinstance(one, torch.Tensor)]
    return Work(batch_rows=rows, flops=counter.get_total_flops(), bytes=sum(one.nbytes for one in tensors))


def _flat(outputs: Any) -> Sequence[Any]:
    return outputs if isinstance(outputs, (list, tuple)) else [outputs]


def _ceilings(device: str, threads_count: int) -> Ceilings:
    import torch

    torch.set_num_threads(threads_count)
    wait = synchroniser(device)
    with torch.inference_mode():
        return Ceilings(
            threads_count=threads_count,
            flops_per_s=max(2 * side**3 / _matmul_s(side, device, wait) for side in _SIDES),
            bytes_per_s={str(size): size / _copy_s(size, device, wait) for size in _COPIES_BYTES[device]},
            dispatch_s=_dispatch_s(device, wait),
        )


def _matmul_s(side: int, device: str, wait: Callable[[], None]) -> float:
    import torch

    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    out = torch.empty(side, side, device=device)
    return _best_s(lambda: torch.mm(a, b, out=out), wait)


def _copy_s(size: int, device: str, wait: Callable[[], None]) -> float:
    """A copy whose source and target together hold ``size`` bytes."""
    import torch

    source = torch.randn(size // 8, device=device)
    target = torch.empty_like(source)
    return _best_s(lambda: target.copy_(source), wait)


def _dispatch_s(device: str, wait: Callable[[], None]) -> float:
    if device == "cpu":
        return _best_s(ctypes.CDLL(None).getppid, wait)
    import torch

    one = torch.zeros(1, device=device)

    def launch() -> None:
        one.add_(1)
        wait()

    return _best_s(launch, wait)


def _best_s(call: Callable[[], Any], wait: Callable[[], None]) -> float:
    """The shortest of repeated blocks, per call: a ceiling is what the machine can do at its best."""
    call()
    wait()
    started = now_s()
    call()
    wait()
    one_s = max(now_s() - started, 1e-8)
    calls_count = max(1, int(_LEAST_S / 5 / one_s))
    best_s = float("inf")
    for _ in range(5):
        started = now_s()
        for _ in range(calls_count):
            call()
        wait()
        best_s = min(best_s, (now_s() - started) / calls_count)
    return best_s
