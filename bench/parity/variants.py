"""Equivalents of a model: ways to compute the same function in float32, of which none is more right than another.

The *usual* ones are what every run knows the model by: one thread, other batches, products summed in another order,
noise of one rounding on every value. The *unusual* ones are asked only about calls on which an artifact fails: the
program decomposed into elementary operators, as exporters do it, the same with noise, with its sums in sequence, or in
a range that ends earlier, and attention by its formula.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.parity.cases import Tensors
from bench.parity.oracle import Oracle
from bench.parity.perturbed import Cramped, Elementary, InSequence, Reassociated, Rounded
from bench.parity.remarks import in_parts
from export.arrays import to_numpy, to_torch
from export.flat import FlatModule
from export.gradients import call
from export.open_layers import open_layers
from export.program import quiet

_BATCHES = (1, 5, 64)


@dataclass(frozen=True)
class Equivalent:
    """One way to compute the model."""

    kind: str
    """``one thread``, ``batches of``, ``re-association``, ``rounding``, ..."""
    number: int | None
    """Which of its kind: rows a batch, or the draw; None where there is one."""
    answer: Callable[[Tensors], Tensors]


def usual(
    oracle: Oracle, exported: ExportedProgram | None, draws: int, seed: int, *, own_rows: bool
) -> Iterator[Equivalent]:
    """Those that are cheap. Other batches are none where rows look at each other; products need the traced graph."""
    yield Equivalent("one thread", None, partial(_single_threaded, oracle))
    if own_rows and oracle.signature.batch is not None:
        bounds = oracle.signature.ranges[oracle.signature.batch]
        for rows in sorted({bounds.fit(rows) for rows in _BATCHES} - {0}):
            yield Equivalent("batches of", rows, partial(_split, oracle, rows))
    if exported is not None:
        for draw in range(draws):
            for kind in (Reassociated, Rounded):
                yield Equivalent(kind.WORD, draw, partial(_run, oracle, kind(exported, seed + draw).run))


def unusual(oracle: Oracle, elementary: ExportedProgram | None, draws: int, seed: int) -> Iterator[Equivalent]:
    """Those that take longer to make; ``elementary`` is the program, decomposed."""
    yield Equivalent("attention by its formula", None, partial(_plain_attention, oracle))
    if elementary is not None:
        for draw in range(draws + 1):  # the first without noise
            run = Elementary(elementary, seed + draw, share=float(draw > 0), alike=draw % 2 == 1).run
            yield Equivalent(Elementary.WORD, draw, partial(_run, oracle, run))
        yield Equivalent(InSequence.WORD, None, partial(_run, oracle, InSequence(elementary, seed, share=0.0).run))
        yield Equivalent(Cramped.WORD, None, partial(_run, oracle, Cramped(elementary, seed).run))


def endless(oracle: Oracle, elementary: ExportedProgram, seed: int) -> Iterator[Equivalent]:
    """Draws of the program in elementary operators, one after the other, each with other noise."""
    runs = [Elementary(elementary, seed + alike, alike=bool(alike)).run for alike in range(2)]
    for draw, run in enumerate(itertools.cycle(runs)):
        yield Equivalent(Elementary.WORD, draw, partial(_run, oracle, run))


def traced(oracle: Oracle, inputs: Tensors) -> ExportedProgram | None:
    """The model's program for the sizes of these inputs alone; None if it has none even so: it decides by values."""
    flat = FlatModule(copy.deepcopy(oracle.module).cpu(), oracle.signature)
    tensors = tuple(to_torch(inputs[spec.name]) for spec in oracle.signature.inputs)
    try:
        with quiet(), torch.no_grad(), open_layers(flat):
            return torch.export.export(flat, tensors)
    except Exception:  # noqa: BLE001 - the tracer has a class of error for every reason, and none is asked for here
        return None


def _run(oracle: Oracle, run: Callable[..., Any], inputs: Tensors) -> Tensors:
    outputs = call(run, [to_torch(inputs[spec.name]).clone() for spec in oracle.signature.inputs])
    return dict(zip(oracle.signature.output_names, map(to_numpy, outputs), strict=True))


def _single_threaded(oracle: Oracle, inputs: Tensors) -> Tensors:
    threads_count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return oracle.eager(inputs)
    finally:
        torch.set_num_threads(threads_count)


def _plain_attention(oracle: Oracle, inputs: Tensors) -> Tensors:
    with sdpa_kernel(SDPBackend.MATH):
        return oracle.eager(inputs)


def _split(oracle: Oracle, rows: int, inputs: Tensors) -> Tensors:
    """The same rows, so many at a time; what does not divide, and other outputs, are taken from the whole call."""
    whole = oracle.eager(inputs)
    parts = in_parts(oracle, rows, oracle.eager, inputs)
    return {
        name: np.concatenate([parts[name], values[len(parts[name]) :]]) if name in parts else values
        for name, values in whole.items()
    }
