"""The three answers to one case for one output, and which of their elements can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.parity.cases import Case, Values
from bench.parity.choice import Chosen
from export.arrays import float_limits, is_floating

Scores = Sequence[tuple[Values, Values]]
"""Answers of other outputs: what float64 and what eager gave."""


def _no_scores() -> Scores:
    return ()


def _no_choice() -> Chosen | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far apart equivalents of the model are in one output of one case: what float32 leaves undetermined there."""

    peak: Values
    """Per element, the largest difference of an equivalent from float64; infinite where they do not agree whether it is
    a number, or on an integer."""
    rms: Values
    """Per row, the largest root mean square of those differences of one equivalent."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One output in one case: what float64, eager float32 and the artifact answered; of one shape, or ``malformed``."""

    output: str
    case: Case
    wide: Values
    eager: Values
    got: Values
    scores: Callable[[], Scores] = _no_scores
    """The floating outputs of the same call, read when asked for: an integer output may be a choice among them."""
    spread: Spread | None = None
    """What equivalents of the model answer to this very case; None where they were not asked."""
    chosen: Callable[[], Chosen | None] = _no_choice
    """What of this output hangs on choices that float32 leaves open, read when asked for."""

    @property
    def malformed(self) -> str | None:
        """What is wrong with the form of the artifact's answer; None if nothing."""
        got, eager = self.got, self.eager
        if got.shape == eager.shape and got.dtype == eager.dtype:
            return None
        return (
            f"{self.output} ({self.case.name}) must be {eager.dtype}{list(eager.shape)}, "
            f"got {got.dtype}{list(got.shape)}"
        )

    @property
    def floating(self) -> bool:
        """Whether this output holds real numbers."""
        return is_floating(self.eager.dtype)

    @cached_property
    def defined(self) -> Values:
        """Where float64 and eager float32 agree whether the element is a number, NaN or infinite (on integers: agree).

        Elsewhere the element is undefined in float32, as where another choice was as good: neither right nor wrong.
        """
        agreed = True if self.spread is None else np.isfinite(self.spread.peak)
        if not self.floating:
            return np.asarray((self.eager == self.wide) & ~self.other_row & agreed | self.as_good)
        finite = np.isfinite(self.wide) == np.isfinite(self.eager)
        same = np.isnan(self.wide) == np.isnan(self.eager)
        return np.asarray(finite & same & ~self.other_row & agreed)

    @cached_property
    def as_good(self) -> Values:
        """Where an index is another than float64's, and what it picks is as good, by its score."""
        if self._open is None or self._open.ranked is None:
            return np.zeros(self.wide.shape, bool)
        return np.asarray((self.got != self.wide) & self._open.ranked.as_good(self.wide, self.got))

    @cached_property
    def other_row(self) -> Values:
        """Where the artifact, or eager, chose otherwise than float64, and as well: there is nothing to compare."""
        if self._open is None:
            return np.zeros(self.wide.shape, bool)
        return self._open.other_rows(self.wide, self.eager, self.got)

    @cached_property
    def _open(self) -> Chosen | None:
        return None if np.array_equal(self.got, self.wide) or not self.wide.size else self.chosen()

    @cached_property
    def comparable(self) -> Values:
        """Where all three are finite numbers."""
        if not self.floating:
            return np.zeros(self.wide.shape, bool)
        return np.asarray(np.isfinite(self.wide) & self.defined & np.isfinite(self.got))

    def truth(self) -> Values:
        """Float64 values of the comparable elements, flat."""
        return self.wide[self.comparable].astype(np.float64)

    def errors(self) -> dict[str, Values]:
        """Differences from ``truth()``: of the artifact, of eager, and of the truth rounded to the output's dtype.

        The last is at least half a rounding, also where the truth happens to be representable.
        """
        truth = self.truth()
        with np.errstate(over="ignore"):
            rounded = truth.astype(self.eager.dtype).astype(np.float64)
        half = float(float_limits(self.eager.dtype).eps) / 4 * np.abs(truth)
        return {
            "artifact": self.got[self.comparable].astype(np.float64) - truth,
            "eager": self.eager[self.comparable].astype(np.float64) - truth,
            "floor": np.where(np.isfinite(rounded), np.maximum(np.abs(rounded - truth), half), 0.0),
        }


def apart(got: Values, wide: Values) -> Values:
    """Per element, how far an answer is from float64; infinite where only one is a number, or integers differ."""
    if wide.dtype.kind in "biu":
        return np.where(got == wide, 0.0, np.inf)
    got, wide = got.astype(np.float64), wide.astype(np.float64)
    numbers = np.isfinite(got) & np.isfinite(wide)
    same = (got == wide) | (np.isnan(got) & np.isnan(wide))
    with np.errstate(invalid="ignore"):  # of two infinities, which are not taken
        return np.where(numbers, np.abs(got - wide), np.where(same, 0.0, np.inf))
