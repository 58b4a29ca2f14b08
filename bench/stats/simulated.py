"""The statistics on simulated processes whose truth is known: how often intervals hold it, and how often they lie."""

from __future__ import annotations

import functools
import math
import random

from bench.stats.effects import Effect, effects, mean_ratio, noise_floor, paired_logs

TRIALS = 2000
FAMILIES = 500
ROUNDS = 20
_PROCESS_SIGMA, _ROUND_SIGMA = 0.013, 0.06
"""Spread of log-ratios between processes and between rounds, as measured on a shared machine of two cores."""
_STALLS = 0.02
_COMPARISONS = 10


def coverage(processes_count: int) -> float:
    """The share of intervals that hold a true ratio of 0.8."""
    generator = random.Random(processes_count)
    held = 0
    for _ in range(TRIALS):
        ratio = mean_ratio(simulated(generator, math.log(0.8), processes_count))
        held += ratio.holds(0.8)
    return held / TRIALS


def false_wins(processes_count: int) -> float:
    """The share of families of ten comparisons without a difference in which any is claimed."""
    generator = random.Random(0)
    wrong = 0
    for _ in range(FAMILIES):
        floor = noise_floor(simulated(generator, 0.0, processes_count))
        logs = {index: simulated(generator, 0.0, processes_count) for index in range(_COMPARISONS)}
        judged = effects(logs, functools.partial(_constant, floor), 0.02)
        wrong += any(differs(effect) for effect in judged.values())
    return wrong / FAMILIES


def simulated(generator: random.Random, truth: float, processes_count: int) -> list[float]:
    """Per-process log-ratios as ``paired_logs`` makes them: a level per process, noise per round, a rare stall."""

    def sample(level: float) -> float:
        stall = 1.0 if generator.random() < _STALLS else 0.0
        return math.exp(level + generator.gauss(0, _ROUND_SIGMA) + stall)

    levels = [truth + generator.gauss(0, _PROCESS_SIGMA) for _ in range(processes_count)]
    samples = [[sample(level) for _ in range(ROUNDS)] for level in levels]
    baseline = [[sample(0.0) for _ in range(ROUNDS)] for _ in levels]
    return paired_logs(samples, baseline)


def differs(effect: Effect) -> bool:
    """Whether a difference is claimed."""
    return effect.comparison in {"faster", "slower"}


def _constant(floor: float, _: object) -> float:
    return floor
