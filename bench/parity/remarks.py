"""What is seen of a model before anything is judged: whether it is random, writes into its inputs, and whose rows are.

A random model has no answer that an artifact could be held to: it is refused. That rows of a call look at each other,
or that a call changes its inputs, is remarked, and taken into account.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch

from bench.parity.cases import Tensors, Values
from bench.parity.oracle import Oracle
from export.arrays import to_torch
from export.effects import Effects
from export.errors import UserError
from export.flat import FlatModule

_TRIED_ROWS = 64
_PART_ROWS = 5
PAIRS = "the output {} is complex: artifacts answer with pairs of real numbers, in a last dimension of 2"
ROWS_TOGETHER = "the rows of a call look at each other: a row's answer is not held to be the same in other batches"
DRAWN_TOGETHER = (
    "a function draws inputs of whole calls: no call is taken apart, and a row's answer is not compared between batches"
)


def effects(oracle: Oracle, inputs: Tensors) -> list[str]:
    """Sentences about what one call does besides answering.

    Raises:
        UserError: the model draws random numbers that its answers depend on.
    """
    tensors = {spec.name: to_torch(inputs[spec.name]).clone() for spec in oracle.signature.inputs}
    flat = FlatModule(copy.deepcopy(oracle.module), oracle.signature)
    watch = Effects(tensors)
    try:
        with torch.enable_grad(), watch:
            returned = flat.returned(*tensors.values())
    except RuntimeError:  # hooks and compiled parts may not run while they are watched
        return []
    if watch.random is not None and _differs_by_seed(oracle, inputs):
        operator, line = watch.random
        raise UserError(
            f"the model is random also in eval mode: {operator} draws numbers at {line}. Draw them outside of forward "
            "and make them an input, or switch that part off in eval mode"
        )
    written = [
        f"forward writes into its input {name!r} ({operator} at {line}): every call is given its own copy"
        for name, (operator, line) in watch.written.items()
    ]
    return written + [PAIRS.format(repr(name)) for name, tensor in returned.items() if tensor.is_complex()]


def rows_are_own(oracle: Oracle, inputs: Tensors) -> bool:
    """Whether each row's answer is its own, in float64: it stays what it is in other batches, to rounding."""
    batch = oracle.signature.batch
    if batch is None or oracle.failure:
        return True
    few = {
        spec.name: inputs[spec.name][: oracle.signature.ranges[batch].fit(_TRIED_ROWS)]
        if spec.shape[:1] == (batch,)
        else inputs[spec.name]
        for spec in oracle.signature.inputs
    }
    whole = oracle.wide(few)
    count = next(len(few[spec.name]) for spec in oracle.signature.inputs if spec.shape[:1] == (batch,))
    # At least two parts: the first rows may stay as they are, as where each takes from a common source what it needs.
    parts = in_parts(oracle, oracle.signature.ranges[batch].fit(min(_PART_ROWS, count // 2)), oracle.wide, few)
    return all(
        np.allclose(whole[name][: len(part)], part, rtol=1e-9, atol=1e-12 * _size(whole[name]), equal_nan=True)
        for name, part in parts.items()
    )


def in_parts(oracle: Oracle, rows: int, answer: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
    """Answers to the same rows, so many at a time, of the outputs that have a row for each; as many rows as divide.

    Empty where the model refuses such a batch, or there are fewer rows.
    """
    signature, batch = oracle.signature, oracle.signature.batch
    count = next(len(inputs[spec.name]) for spec in signature.inputs if spec.shape[:1] == (batch,))
    own = [
        spec.name
        for spec in signature.outputs
        if spec.shape[:1] == (batch,)
        and all(isinstance(dim, int) or dim in signature.ranges for dim in spec.shape)
        and batch not in spec.shape[1:]
    ]
    parts: dict[str, list[Values]] = {name: [] for name in own}
    for start in range(0, count - count % rows, rows):
        given = {
            spec.name: inputs[spec.name][start : start + rows] if spec.shape[:1] == (batch,) else inputs[spec.name]
            for spec in signature.inputs
        }
        try:
            answered = answer(given)
        except Exception:  # noqa: BLE001 - what the model refuses tells nothing about its rows
            return {}
        for name in own:
            parts[name].append(answered[name])
    return {name: np.concatenate(answered) for name, answered in parts.items() if answered}


def _differs_by_seed(oracle: Oracle, inputs: Tensors) -> bool:
    answers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        answers.append(oracle.eager(inputs, copy.deepcopy(oracle.module)))
    return any(first.tobytes() != answers[1][name].tobytes() for name, first in answers[0].items())


def _size(values: Values) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))
