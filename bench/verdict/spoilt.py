"""Candidates that a neighbour was timed with: their times are shown as a dash, and nothing is concluded from them."""

from __future__ import annotations

from collections.abc import Iterable

from bench.timing.measurement import Samples

_LARGEST_SHARE = 0.25
"""Medians of rounds stand so many spoilt samples, also when as many of what they are paired with are."""


def spoilt(series: Iterable[Samples]) -> str | None:
    """Why the samples of a candidate at one batch size, from all processes, are not its own; None if they are."""
    every = [*series]
    count = sum(len(samples.samples_s) for samples in every)
    hit = sum(samples.spoilt_count for samples in every)
    if hit <= _LARGEST_SHARE * count:
        return None
    return f"during {hit} of {count} samples others had a core"
