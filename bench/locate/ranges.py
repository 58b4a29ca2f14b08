"""The range audit: which modules' values would overflow or vanish in float16, in float64, on real rows.

ONNX Runtime computes float16 models in float32 on the CPU, so that no test there shows an overflow on a GPU; this does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from bench.parity.reference import INPUTS
from bench.parity.store import load_case
from export.arrays import to_torch
from export.artifact import verified_program
from export.program import load_exported
from export.signature import Signature
from export.taps.trace import Trace
from export.task import task

_LARGEST, _SMALLEST_NORMAL = 65504.0, 2.0**-14
_MOST_VANISHING = 0.01


@dataclass(frozen=True, kw_only=True)
class RangeJob:
    """Where to look."""

    program: str
    reference: str
    signature: Signature
    cases: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class OutOfRange:
    """One value of the program that float16 cannot hold."""

    module: str
    node: str
    line: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What the audit found, in the program's order."""

    outside: tuple[OutOfRange, ...]
    nodes_count: int


@task
def audit(job: RangeJob) -> Ranges:
    """Run the program in float64 over the rows, keep each value's extremes."""
    trace = Trace(load_exported(verified_program(Path(job.program))))
    largest: dict[str, float] = {}
    small: dict[str, int] = {}
    total: dict[str, int] = {}
    for case in job.cases:
        inputs = load_case(Path(job.reference) / INPUTS, case, [spec.name for spec in job.signature.inputs])
        trace.run([to_torch(array) for array in inputs.values()])
        for name, value in trace.values.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
                size = value.abs()
                finite = size[torch.isfinite(size)]
                largest[name] = max(largest.get(name, 0.0), float(finite.max()) if finite.numel() else 0.0)
                small[name] = small.get(name, 0) + int(((size > 0) & (size < _SMALLEST_NORMAL)).sum())
                total[name] = total.get(name, 0) + int((size > 0).sum())
    outside = []
    for name, peak in largest.items():
        vanishing = small[name] / max(total[name], 1)
        message = None
        if peak > _LARGEST:
            message = f"reaches {peak:.3g}, float16 ends at {_LARGEST:g}: it overflows"
        elif vanishing > _MOST_VANISHING:
            message = f"{vanishing:.1%} of its values lie below {_SMALLEST_NORMAL:.2g}: they lose precision"
        if message is not None:
            outside.append(OutOfRange(module=trace.scope(name), node=name, line=trace.line(name), message=message))
    return Ranges(outside=tuple(outside), nodes_count=len(largest))
