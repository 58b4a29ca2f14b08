from __future__ import annotations

import math
import random

import pytest

from bench.stats import Ratio, mean_ratio, median_s, paired_ratio, t_quantile, word


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """5,000 experiments of 3 processes each with a true ratio of 0.8: 95 % +- 1 % of the intervals hold it."""
    generator = random.Random(0)
    trials = 5000
    held = 0
    for _ in range(trials):
        ratio = mean_ratio([math.log(0.8) + generator.gauss(0, 0.02) for _ in range(3)])
        held += ratio.low <= 0.8 <= ratio.high
    assert held / trials == pytest.approx(0.95, abs=0.01)


def test_drift_that_hits_a_whole_round_cancels_in_a_pair() -> None:
    generator = random.Random(1)
    speeds = [[generator.choice([1.0, 1.6]) for _ in range(30)] for _ in range(3)]
    ours = [[2e-6 * speed for speed in process] for process in speeds]
    theirs = [[4e-6 * speed for speed in process] for process in speeds]
    ratio = paired_ratio(ours, theirs)
    assert ratio.value == pytest.approx(0.5)
    assert ratio.high - ratio.low < 1e-9


def test_samples_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([[1.0, 2.0]] * 2, [[1.0]] * 2)
    with pytest.raises(ValueError, match="at least 2 processes, got 1"):
        mean_ratio([0.0])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 0.6, "faster"),
        (0.5, 0.979, "faster"),
        (0.5, 0.981, "inconclusive"),
        (0.985, 1.015, "same"),
        (0.9, 1.1, "inconclusive"),
        (1.01, 1.5, "inconclusive"),
        (1.03, 1.5, "slower"),
    ],
)
def test_an_interval_says_no_more_than_it_shows(low: float, high: float, expected: str) -> None:
    assert word(Ratio(value=(low * high) ** 0.5, low=low, high=high), tie_ratio=0.02) == expected


def test_the_median_is_over_processes() -> None:
    assert median_s([[1.0, 1.0, 9.0], [2.0, 2.0], [30.0]]) == 2.0


def test_quantiles_match_the_table() -> None:
    assert t_quantile(2) == 4.303
    assert t_quantile(30) == 2.042
    assert t_quantile(1000) == pytest.approx(1.960, abs=1e-3)
