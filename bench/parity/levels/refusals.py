"""Refusals: inputs of wrong dtypes, ranks and sizes are refused with an error, never misread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from bench.parity.cases import Tensors
from bench.parity.check import Check
from bench.parity.levels.level import Inside, Level
from export.arrays import Array
from export.backend import Runner
from export.signature import Signature


class Refusals(Level):
    """What a caller may pass by mistake."""

    name = "refusals"
    meaning = "wrong dtypes, ranks and sizes are refused, never misread"

    def observe(self, inside: Inside) -> Iterable[Check]:
        """One fault at a time, on an ordinary call."""
        return [] if inside.inputs is None else [refusals(inside.runner, inside.inputs)]


def refusals(runner: Runner, inputs: Tensors) -> Check:
    """Every input that breaks the signature must be refused with an error."""
    accepted = []
    tried = 0
    for what, broken in _broken(runner.signature, inputs):
        tried += 1
        try:
            runner(broken)
        except Exception:  # noqa: BLE001, S112 - any refusal is the right answer; each runtime has its own type
            continue
        accepted.append(what)
    message = f"accepted {', '.join(accepted)}" if accepted else f"{tried} of {tried} wrong inputs refused"
    return Check(level="refusals", subject="inputs", status="fail" if accepted else "pass", message=message)


def _broken(signature: Signature, inputs: Tensors) -> Iterator[tuple[str, Mapping[str, Array]]]:
    """Inputs that a caller may pass by mistake, one fault each."""
    for spec in signature.inputs:
        array = inputs[spec.name]
        for dtype in ("float64", "float32", "float16", "int64", "int32"):
            if dtype != spec.dtype:
                yield f"{spec.name} as {dtype}", {**inputs, spec.name: array.astype(dtype)}
        yield f"{spec.name} with a rank too many", {**inputs, spec.name: array[None]}
        if array.ndim:
            yield f"{spec.name} with a rank too few", {**inputs, spec.name: array[0]}
        for axis, dim in enumerate(spec.shape):
            wider = np.concatenate([array, array.take([-1], axis)], axis) if array.size else array
            if isinstance(dim, int) and array.size:
                yield f"{spec.name} with size {dim + 1} for {dim}", {**inputs, spec.name: wider}
                if dim > 1:
                    narrower = np.ascontiguousarray(array.take(range(dim - 1), axis))
                    yield f"{spec.name} with size {dim - 1} for {dim}", {**inputs, spec.name: narrower}
        yield f"no {spec.name}", {key: value for key, value in inputs.items() if key != spec.name}
    yield "an input too many", {**inputs, "surplus": next(iter(inputs.values()))}
