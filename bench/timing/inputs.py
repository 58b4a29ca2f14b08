"""What is called while timing: batch sizes that the signature allows, real rows in rotating buffers, right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.parity.cases import Pool, Tensors
from bench.timing.spec import BenchSpec
from export.arrays import Array, to_numpy, to_torch
from export.backend import Bound, Runner
from export.device import Device
from export.errors import UserError
from export.signature import Signature

BUFFERS_COUNT = 4
"""Inputs rotate among this many buffers, so that no runtime sees the same memory twice in a row."""
_MISMATCHED = 1e-3


def batch_sizes(spec: BenchSpec, signature: Signature) -> list[int]:
    """The batch sizes that the signature allows, in order; one call is one row where no dimension counts rows.

    Raises:
        UserError: the signature allows none of them.
    """
    if signature.batch is None:
        return [1]
    bounds = signature.ranges[signature.batch]
    allowed = sorted(rows for rows in spec.batch_rows if rows in bounds)
    if not allowed:
        raise UserError(
            f"bench.batch_rows must have a size in [{bounds.min}, {bounds.max}], got {list(spec.batch_rows)}"
        )
    return allowed


def buffers(signature: Signature, samples: str | None, rows: int, seed: int) -> list[Tensors]:
    """Inputs on the host: those that calls rotate among."""
    from safetensors.numpy import load_file

    pool = Pool(signature=signature, samples=load_file(samples) if samples else {}, seed=seed)
    return [pool.call(rows, start=index * rows) for index in range(BUFFERS_COUNT)]


def first_call(signature: Signature, samples: str | None, rows: int) -> Tensors:
    """Inputs of a call whose values do not matter: an example; those of the first buffer where functions draw."""
    if not signature.has_draw_functions:
        return signature.example(signature.sizes_at(rows), seed=0)
    from safetensors.numpy import load_file

    return Pool(signature=signature, samples=load_file(samples) if samples else {}, seed=0).call(rows)


def draws(signature: Signature, samples: Tensors, spec: BenchSpec, seed: int) -> Tensors:
    """What functions draw for all buffers of all batch sizes, to be kept among the samples: what is timed, or started
    from nothing, has no recipe and so no function.
    """
    pool = Pool(signature=signature, samples=samples, seed=seed)
    batch = signature.batch
    sizes = [rows for rows in spec.batch_rows if rows in signature.ranges[batch]] if batch else [1]
    return {
        name: array
        for rows in sizes
        for index in range(BUFFERS_COUNT)
        for name, array in pool.draws(rows, start=index * rows).items()
    }


def mismatched_output(expected: Mapping[str, Array], got: Sequence[Array]) -> str | None:
    """The first output of a bound call that does not answer the inputs it was bound to, by the checked call's answer.

    This finds stale and crossed buffers. How close values are to the truth is parity's business: a thousandth of the
    output's scale is close enough here.
    """
    for (name, array), other in zip(expected.items(), got, strict=True):
        wanted = to_numpy(array)
        scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0))
        if not np.allclose(wanted, to_numpy(other), rtol=0.0, atol=_MISMATCHED * scale, equal_nan=True):
            return name
    return None


def stale_output(runner: Runner, bound: Bound, inputs: Sequence[Mapping[str, Array]], where: Device) -> str | None:
    """The output that stays behind when the first buffer is given the second one's content; None if all follow.

    A call that was bound, or captured, with a value of that moment in it would answer for it for ever. Buffers of
    different shapes tell nothing.
    """
    first, second = inputs[:2]
    if any(array.shape != second[name].shape for name, array in first.items()):
        return None
    before = {name: to_numpy(array).copy() for name, array in first.items()}
    _fill(first, second, where)
    output = mismatched_output(runner(second), bound.run())
    _fill(first, before, where)
    return output


def _fill(buffers: Mapping[str, Array], content: Mapping[str, Array], where: Device) -> None:
    for name, buffer in buffers.items():
        to_torch(buffer, where).copy_(to_torch(content[name], where))
