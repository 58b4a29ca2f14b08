"""The statistics on simulated processes whose truth is known: how often intervals hold it, and how often they lie."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

from bench.stats.effects import Effect, effects, mean_ratio, noise_floor, paired_logs
from bench.stats.enough import LEAST_ROUNDS, is_enough

TRIALS = 1000
FAMILIES = 500
ROUNDS = 20
_PROCESS_SIGMA, _ROUND_SIGMAS = 0.013, (0.01, 0.03, 0.06)
"""Spread of log-ratios between processes; and between rounds, from a quiet machine to a shared one of two cores."""
_LARGEST_ERROR = 0.01
_STALLS = 0.02
_COMPARISONS = 10


Pair = tuple[list[float], list[float]]
"""Samples of one process by round, and the baseline's."""


def stops(pair: Pair) -> bool:
    """The rule by which rounds end."""
    return is_enough(pair, _LARGEST_ERROR)


def coverage(processes_count: int, trials: int = TRIALS, stop: Callable[[Pair], bool] = stops) -> float:
    """The share of intervals that hold a true ratio of 0.8."""
    generator = random.Random(processes_count)
    held = 0
    for _ in range(trials):
        ratio = mean_ratio(simulated(generator, math.log(0.8), processes_count, stop))
        held += ratio.holds(0.8)
    return held / trials


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


def simulated(
    generator: random.Random, truth: float, processes_count: int, stop: Callable[[Pair], bool] = stops
) -> list[float]:
    """Per-process log-ratios as ``paired_logs`` makes them: a level per process, noise per round, a rare stall.

    Rounds end when ``stop`` says so of the samples and the baseline's, as they do in a process that measures.
    """

    def sample(level: float, sigma: float) -> float:
        stall = 1.0 if generator.random() < _STALLS else 0.0
        return math.exp(level + generator.gauss(0, sigma) + stall)

    pairs = []
    for _ in range(processes_count):
        level, sigma = truth + generator.gauss(0, _PROCESS_SIGMA), generator.choice(_ROUND_SIGMAS)
        pair: Pair = ([], [])
        while len(pair[0]) < ROUNDS and not (len(pair[0]) >= LEAST_ROUNDS and stop(pair)):
            pair[0].append(sample(level, sigma))
            pair[1].append(sample(0.0, sigma))
        pairs.append(pair)
    return paired_logs([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def differs(effect: Effect) -> bool:
    """Whether a difference is claimed."""
    return effect.comparison in {"faster", "slower"}


def _constant(floor: float, _: object) -> float:
    return floor
