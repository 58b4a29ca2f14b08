"""Equivalent variants: the same model, computed in another order or with other rounding. None of them may fail.

They show how far from float64 an innocent artifact of *this* model can be. Where one exceeds the recipe's thresholds
(an ill-conditioned model), the thresholds rise to 1.25 times it, and the report says so. bench/parity/variants.py has
the kinds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.parity.answers import Answers
from bench.parity.cases import Case, Tensors
from bench.parity.levels.error import ErrorTally
from bench.parity.levels.systematic import SlopeTally
from bench.parity.oracle import Oracle
from bench.parity.scores import SCORES, load_chosen
from bench.parity.spec import ParitySpec, Thresholds
from bench.parity.store import load_case
from bench.parity.variants import usual
from export.program import load_exported

DRAWS = {"quick": 3, "full": 30}
HEADROOM = 1.25
MOST = 7.5
"""Thresholds rise no farther: with the headroom that is 9.4, and the smallest real fault measured was at 9.6."""
_CASES_COUNT = 2
"""Chunks of rows that the variants answer; one where a call is slow."""
_SLOW_CALL_S = 0.5


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
    oracle: Oracle, folder: Path, cases: Sequence[Case], spec: ParitySpec, seed: int, *, own_rows: bool = True
) -> tuple[EquivalentVariant, ...]:
    """Run every usual variant on the first rows; ``folder`` holds the reference's inputs and answers.

    One that the model refuses to be computed by is left out.
    """
    indices = [index for index, case in enumerate(cases) if case.group == "rows"][:_CASES_COUNT]
    names = [spec.name for spec in oracle.signature.inputs]
    inputs = {index: load_case(folder / "inputs", index, names) for index in indices}
    started = time.monotonic()
    oracle.eager(inputs[indices[0]])
    if time.monotonic() - started > _SLOW_CALL_S:
        indices = indices[:1]
    results = []
    exported = load_exported(oracle.program_file) if oracle.program_file else None
    for equivalent in usual(oracle, exported, DRAWS[spec.depth], seed, own_rows=own_rows):
        tallies = [(ErrorTally(output), SlopeTally(output)) for output in oracle.signature.output_names]
        try:
            for index in indices:
                _add(tallies, folder, index, cases[index], equivalent.answer(inputs[index]))
        except Exception:  # noqa: BLE001, S112 - noise under vmap, batches that the model refuses: not every way is there
            continue
        results.append(worst_output(equivalent.kind, equivalent.number, tallies))
    return tuple(results)


def _add(tallies: Sequence[tuple[ErrorTally, SlopeTally]], folder: Path, index: int, case: Case, got: Tensors) -> None:
    outputs = [error.name for error, _ in tallies]
    wide, eager = (load_case(folder / place, index, outputs) for place in ("float64", "eager"))
    for error, slope in tallies:
        output = error.name
        chosen = partial(load_chosen, folder / SCORES, index, output)
        answers = Answers(
            output=output, case=case, wide=wide[output], eager=eager[output], got=got[output], chosen=chosen
        )
        if answers.malformed is None:
            error.add(answers)
            slope.add(answers)


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
