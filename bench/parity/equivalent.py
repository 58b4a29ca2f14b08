"""Equivalent variants: the same model, computed in another order or with other rounding. None of them may fail.

They show how far from float64 an innocent artifact of *this* model can be. Where one exceeds the recipe's thresholds
(an ill-conditioned model), the thresholds rise to 1.25 times it, and the report says so.

* threads: eager with one thread; batches: the same rows in other batches;
* re-association: the terms of every matrix product and convolution summed in a random order;
* rounding: every operator's result scaled by 1 + u x, x uniform in [-1, 1] and u the dtype's rounding (Monte Carlo
  arithmetic: Parker, 1997).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from bench.parity.answers import Answers
from bench.parity.cases import Case, Tensors
from bench.parity.levels.error import ErrorTally
from bench.parity.levels.systematic import SlopeTally
from bench.parity.oracle import Oracle
from bench.parity.scores import SCORES, load_chosen
from bench.parity.spec import ParitySpec, Thresholds
from bench.parity.store import load_case
from export.arrays import to_numpy, to_torch
from export.float64 import Unguarded
from export.program import load_exported

DRAWS = {"quick": 3, "full": 30}
HEADROOM = 1.25
MOST = 7.5
"""Thresholds rise no farther: with the headroom that is 9.4, and the smallest real fault measured was at 9.6."""
_CASES_COUNT = 2
"""Chunks of rows that the variants answer; one where a call is slow."""
_SLOW_CALL_S = 0.5
_BATCHES = (1, 5, 64)
_TRIED_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class EquivalentVariant:
    """How far one equivalent variant of the model is from float64, at its worst output."""

    kind: str
    """``one thread``, ``batches of``, ``re-association``, ``rounding``."""
    number: int | None
    """Which of its kind: rows a batch, or the draw; None where there is one."""
    output: str
    rms_ratio: float
    peak_ratio: float
    slope_ulps: float | None

    @property
    def name(self) -> str:
        """``batches of 5``."""
        return self.kind if self.number is None else f"{self.kind} {self.number}"


def thresholds(spec: ParitySpec, variants: Sequence[EquivalentVariant]) -> Thresholds:
    """The recipe's thresholds, or higher ones where an equivalent variant of the model exceeds them."""
    raised = []
    values = {"max_rms_ratio": spec.max_rms_ratio, "max_peak_ratio": spec.max_peak_ratio}
    for name, figure in (("max_rms_ratio", "rms_ratio"), ("max_peak_ratio", "peak_ratio")):
        worst = max(variants, key=lambda variant: getattr(variant, figure), default=None)
        if worst is not None and getattr(worst, figure) > values[name]:
            reached = min(getattr(worst, figure), MOST)
            raised.append(
                f"{name} from {values[name]:g} to {HEADROOM * reached:.3g}: {worst.name} reaches {reached:.3g} "
                f"in {worst.output}"
            )
            values[name] = HEADROOM * reached
    return Thresholds(**values, max_slope_ulps=spec.max_slope_ulps, raised="; ".join(raised) or None)


def ill_conditioned(variants: Sequence[EquivalentVariant]) -> str | None:
    """Why nothing can be proved of this model: an equivalent variant of it is as far off as a fault would be."""
    worst = max(variants, key=lambda variant: max(variant.rms_ratio, variant.peak_ratio), default=None)
    if worst is None or max(worst.rms_ratio, worst.peak_ratio) <= MOST:
        return None
    ratio = max(worst.rms_ratio, worst.peak_ratio)
    return (
        f"an equivalent variant of the model ({worst.name}) is {ratio:.3g} times as far from float64 as eager itself "
        f"in {worst.output}: float32 does not determine this model"
    )


def equivalent_variants(
    oracle: Oracle, folder: Path, cases: Sequence[Case], spec: ParitySpec, seed: int
) -> tuple[EquivalentVariant, ...]:
    """Run every variant on the first rows; ``folder`` holds the reference's inputs and answers."""
    indices = [index for index, case in enumerate(cases) if case.group == "rows"][:_CASES_COUNT]
    names = [spec.name for spec in oracle.signature.inputs]
    inputs = {index: load_case(folder / "inputs", index, names) for index in indices}
    started = time.monotonic()
    oracle.eager(inputs[indices[0]])
    if time.monotonic() - started > _SLOW_CALL_S:
        indices = indices[:1]
    results = []
    separable = oracle.signature.batch is not None and _separable(oracle, inputs[indices[0]])
    for kind, number, answer in variants(oracle, DRAWS[spec.depth], seed, separable):
        tallies = [(ErrorTally(output), SlopeTally(output)) for output in oracle.signature.output_names]
        for index in indices:
            got = answer(inputs[index])
            wide, eager = (
                load_case(folder / place, index, oracle.signature.output_names) for place in ("float64", "eager")
            )
            for error, slope in tallies:
                output = error.name
                answers = Answers(
                    output=output,
                    case=cases[index],
                    wide=wide[output],
                    eager=eager[output],
                    got=got[output],
                    chosen=partial(load_chosen, folder / SCORES, index, output),
                )
                error.add(answers)
                slope.add(answers)
        results.append(worst_output(kind, number, tallies))
    return tuple(results)


def worst_output(kind: str, number: int | None, tallies: Sequence[tuple[ErrorTally, SlopeTally]]) -> EquivalentVariant:
    """The worst output of one variant."""
    error, slope = max(tallies, key=lambda pair: max(pair[0].rms_ratio / 2, pair[0].peak_ratio / 4))
    return EquivalentVariant(
        kind=kind,
        number=number,
        output=error.name,
        rms_ratio=error.rms_ratio,
        peak_ratio=error.peak_ratio,
        slope_ulps=slope.slope_ulps,
    )


def variants(
    oracle: Oracle, draws: int, seed: int, separable: bool
) -> Iterator[tuple[str, int | None, Callable[[Tensors], Tensors]]]:
    """Kind, number and function of every variant.

    Other batches are none where rows are not ``separable``; without a traced graph nothing can be re-associated.
    """
    yield "one thread", None, partial(_single_threaded, oracle)
    if separable and oracle.signature.batch is not None:
        least = oracle.signature.ranges[oracle.signature.batch].min
        for rows in sorted({max(least, rows) for rows in _BATCHES} - {0}):
            yield "batches of", rows, partial(_split, oracle, rows, oracle.eager)
    if oracle.program_file is None:
        return
    exported = load_exported(oracle.program_file)
    for draw in range(draws):
        for kind in (Reassociated, Rounded):
            yield kind.WORD, draw, partial(_run, oracle, kind(exported, seed + draw).run)


def _separable(oracle: Oracle, inputs: Tensors) -> bool:
    """Whether each row's answer is its own, in float64: a model may also look at the whole batch."""
    batch = oracle.signature.batch
    few = {
        spec.name: inputs[spec.name][:_TRIED_ROWS] if spec.shape[:1] == (batch,) else inputs[spec.name]
        for spec in oracle.signature.inputs
    }
    whole, parts = oracle.wide(few), _split(oracle, _BATCHES[1], oracle.wide, few)
    return all(
        np.allclose(whole[name], parts[name], rtol=1e-9, atol=1e-12 * float(np.abs(whole[name]).max(initial=0.0)))
        for name in whole
        if whole[name].dtype.kind == "f"
    )


class Reassociated(Unguarded):
    """The program, with the terms of every product summed in another order."""

    WORD = "re-association"
    _CONTRACTED: ClassVar[dict[str, tuple[int, int]]] = {
        "linear": (-1, -1), "matmul": (-1, -2), "mm": (1, 0), "bmm": (2, 1), "addmm": (1, 0), "conv1d": (1, 1),
        "conv2d": (1, 1), "conv3d": (1, 1),
    }  # fmt: skip
    """The contracted dimension of the first and of the second operand."""

    def __init__(self, exported: torch.export.ExportedProgram, seed: int) -> None:
        super().__init__(exported.module())
        self._generator = torch.Generator().manual_seed(seed)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator; a product has the order of its contracted dimension drawn anew."""
        kind = str(getattr(target, "_opname", ""))
        if kind in self._CONTRACTED and not kwargs:
            first = 1 if kind == "addmm" else 0
            args = list(args)
            left, right = args[first], args[first + 1]
            axes = self._CONTRACTED[kind]
            if left.dim() > 1 and right.dim() > 1 and left.shape[axes[0]] == right.shape[axes[1]]:
                order = torch.randperm(left.shape[axes[0]], generator=self._generator).to(left.device)
                args[first], args[first + 1] = left.index_select(axes[0], order), right.index_select(axes[1], order)
        return super().call_function(target, tuple(args), kwargs)


class Rounded(Unguarded):
    """The program, with noise of one rounding after every operator that computes."""

    WORD = "rounding"
    _EXACT = frozenset({
        "view", "reshape", "permute", "transpose", "t", "flatten", "unsqueeze", "squeeze", "expand", "slice", "select",
        "cat", "stack", "split", "chunk", "clone", "contiguous", "to", "_to_copy", "embedding", "relu", "max_pool2d",
        "dropout", "alias", "detach", "detach_", "lift_fresh_copy", "index", "index_select", "gather", "neg", "abs",
        "where", "masked_fill", "clamp", "maximum", "minimum", "amax", "max", "unbind", "getitem",
    })  # fmt: skip
    """Operators that move or choose values without rounding."""

    def __init__(self, exported: torch.export.ExportedProgram, seed: int) -> None:
        super().__init__(exported.module())
        self._generator = torch.Generator().manual_seed(seed)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator, and its noise."""
        result = super().call_function(target, args, kwargs)
        if str(getattr(target, "_opname", "getitem")) in self._EXACT:
            return result
        return torch.utils._pytree.tree_map(self._noisy, result)

    def _noisy(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        u = torch.finfo(value.dtype).eps / 2
        noise = torch.empty(value.shape, dtype=torch.float64).uniform_(-u, u, generator=self._generator)
        return (value.double() * (1 + noise.to(value.device))).to(value.dtype)


def _run(oracle: Oracle, run: Callable[..., Any], inputs: Tensors) -> Tensors:
    with torch.inference_mode():
        outputs = run(*[to_torch(inputs[spec.name]) for spec in oracle.signature.inputs])
    return dict(zip(oracle.signature.output_names, map(to_numpy, outputs), strict=True))


def _single_threaded(oracle: Oracle, inputs: Tensors) -> Tensors:
    threads_count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return oracle.eager(inputs)
    finally:
        torch.set_num_threads(threads_count)


def _split(oracle: Oracle, rows: int, answer: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
    """The same rows, so many at a time; outputs that do not begin with the batch are taken from the whole call."""
    batch = oracle.signature.batch
    count = next(len(inputs[spec.name]) for spec in oracle.signature.inputs if spec.shape[:1] == (batch,))
    rows = min(rows, count)
    parts = [
        answer(
            {
                spec.name: inputs[spec.name][start : start + rows] if spec.shape[:1] == (batch,) else inputs[spec.name]
                for spec in oracle.signature.inputs
            }
        )
        for start in range(0, count - count % rows, rows)
    ]
    whole = answer(inputs)
    joined = {}
    for spec in oracle.signature.outputs:
        answered = np.concatenate([part[spec.name] for part in parts]) if spec.shape[:1] == (batch,) else None
        joined[spec.name] = (
            whole[spec.name] if answered is None else np.concatenate([answered, whole[spec.name][len(answered) :]])
        )
    return joined
