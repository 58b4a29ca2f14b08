"""The range audit: which modules' values would overflow or vanish in float16, in float64, on real rows.

ONNX Runtime computes float16 models in float32 on the CPU, so that no test there shows an overflow on a GPU; this does.
A build in half precision asks the same of its training rows (export/exporters/narrowing.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.parity.reference import INPUTS
from bench.parity.store import load_case
from export.arrays import to_torch
from export.artifact import verified_program
from export.program import load_exported
from export.signature import Signature
from export.taps.ranges import RangeScan
from export.taps.trace import Trace
from export.task import task


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
    scan = RangeScan(trace)
    for case in job.cases:
        inputs = load_case(Path(job.reference) / INPUTS, case, [spec.name for spec in job.signature.inputs])
        trace.run([to_torch(array) for array in inputs.values()])
        scan.add(trace.values)
    outside = tuple(
        OutOfRange(module=trace.scope(name), node=name, line=trace.line(name), message=message)
        for name, message in scan.outside().items()
    )
    return Ranges(outside=outside, nodes_count=scan.count)
