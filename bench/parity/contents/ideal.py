"""An artifact in half precision beside the ideal of that precision: the same program, rounded, in PyTorch's kernels.

They round every weight and every value between operators, and sum in float32. The truth is the model's in float64; the
unit of an artifact's error is the ideal's own, as eager's is for float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from bench.parity.cases import Values
from bench.parity.check import Check
from bench.parity.contents.opened import Opened
from bench.parity.contents.probe import Call
from export.arrays import to_numpy, to_torch
from export.exporters.narrowing import OUTSIDE, halved_program
from export.foreign.narrowed import half_of

_MOST_RMS, _MOST_PEAK = 2.0, 4.0
"""As of float32 beside eager: PyTorch's own compiled half precision reaches 1.0 of it, since it rounds less often."""


def ideal_checks(opened: Opened, asked: Callable[[], Sequence[Call]]) -> Iterator[Check]:
    """The findings about each output of an artifact that was narrowed here; none of others, or without answers.

    ``asked`` gives inputs, float64 answers and the artifact's own answers to a few calls of real rows.
    """
    half = half_of(opened.artifact.precision)
    if half is None or opened.artifact.is_foreign:
        return
    program, calls = opened.traced, asked()
    if program is None or not calls:
        return
    outside = [name for name in opened.artifact.facts.get(OUTSIDE, "").split(", ") if name]
    module = halved_program(program, getattr(torch, half), outside).module()
    outputs = [spec.name for spec in opened.artifact.signature.outputs if spec.dtype == "float32"]
    ideal: list[tuple[dict[str, Values], dict[str, Values]]] = []
    for inputs, wide, _ in calls:
        try:
            with torch.no_grad():
                answers = module(*[to_torch(array) for array in inputs.values()])
        except (RuntimeError, NotImplementedError) as error:
            message = f"PyTorch has no {half} kernels for this model on the CPU: {' '.join(str(error).split())[:200]}"
            yield Check(level="fidelity", subject="ideal", status="unchecked", message=message)
            return
        names = opened.artifact.signature.output_names
        ideal.append((wide, {name: to_numpy(answer) for name, answer in zip(names, answers, strict=True)}))
    for name in outputs:
        unit, got = _error(ideal, name), _error([(wide, own) for _, wide, own in calls], name)
        floor = _error([(wide, {name: wide[name].astype(np.float32)}) for _, wide, _ in calls], name)
        figures = zip(("RMS", "largest"), got, np.maximum(unit, floor), (_MOST_RMS, _MOST_PEAK), strict=True)
        for kind, value, of_ideal, most in figures:
            ratio = value / of_ideal if of_ideal else 0.0
            yield Check(
                level="fidelity",
                subject=name,
                status="pass" if ratio <= most else "fail",
                message=f"{name}: {kind} error is {ratio:.3g} times an ideal {half}'s on real rows, at most {most:g}",
                value=float(ratio),
                limit=most,
            )


def dtypes_check(opened: Opened) -> Check | None:
    """That values are cast to no other half precision than the artifact's, nor to fewer bits; None where none is."""
    half = half_of(opened.artifact.precision)
    if half is None or opened.artifact.is_foreign or opened.contents is None:
        return None
    others = [kind for kind in opened.contents.casts if kind not in {half, "float32", "float64"}]
    message = f"{half} was asked for, and values are cast to {', '.join(others)}"
    return Check(level="fidelity", subject="casts", status="fail", message=message) if others else None


def _error(pairs: Sequence[tuple[dict[str, Values], dict[str, Values]]], name: str) -> tuple[float, float]:
    """RMS and largest difference from the truth, where that is finite."""
    off = np.concatenate([np.abs(wide[name] - got[name].astype(np.float64)).ravel() for wide, got in pairs])
    off = off[np.isfinite(off)]
    return (float(np.sqrt(np.square(off).mean())), float(off.max())) if off.size else (0.0, 0.0)
