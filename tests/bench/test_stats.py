from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from bench.stats.effects import (
    Effect,
    Ratio,
    effects,
    mean_ratio,
    median_s,
    noise_floor,
    paired_logs,
    t_cdf,
    t_quantile,
)
from bench.stats.quantiles import least_calls, percentile
from bench.stats.steady import levels, settled_at

NO_FLOOR: Callable[[object], float] = lambda _: 0.0  # noqa: E731


def width(ratio: Ratio) -> float:
    assert ratio.low is not None
    assert ratio.high is not None
    return ratio.high - ratio.low


def one(logs: list[float], floor: float = 0.0, tie_ratio: float = 0.02) -> Effect:
    return effects({"x": logs}, lambda _: floor, tie_ratio)["x"]


@pytest.mark.parametrize("processes_count", [3, 10, 20])
def test_the_interval_covers_the_truth_as_often_as_it_says(processes_count: int) -> None:
    """4,000 experiments with a true ratio of 0.8: 95 % +- 1 % of the intervals hold it."""
    generator = random.Random(processes_count)
    trials = 4000
    held = 0
    for _ in range(trials):
        ratio = mean_ratio([math.log(0.8) + generator.gauss(0, 0.02) for _ in range(processes_count)])
        held += ratio.holds(0.8)
    assert held / trials == pytest.approx(0.95, abs=0.01)


def test_drift_that_hits_a_whole_round_cancels_in_a_pair() -> None:
    generator = random.Random(1)
    speeds = [[generator.choice([1.0, 1.6]) for _ in range(30)] for _ in range(3)]
    ours = [[2e-6 * speed for speed in process] for process in speeds]
    theirs = [[4e-6 * speed for speed in process] for process in speeds]
    ratio = mean_ratio(paired_logs(ours, theirs))
    assert ratio.value == pytest.approx(0.5)
    assert width(ratio) < 1e-9


def test_samples_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_logs([[1.0, 2.0]] * 2, [[1.0]] * 2)
    with pytest.raises(ValueError, match="at least 2 processes, got 1"):
        mean_ratio([0.0])


@pytest.mark.parametrize(
    ("logs", "floor", "expected"),
    [
        ([-0.50, -0.51, -0.49], 0.01, "faster"),
        ([0.50, 0.51, 0.49], 0.01, "slower"),
        ([-0.50, -0.51, -0.49], 0.6, "inconclusive"),
        ([0.001, -0.001, 0.0], 0.01, "same"),
        ([-0.5, 0.5, -0.4], 0.0, "inconclusive"),
        ([0.03, 0.031, 0.029], 0.05, "inconclusive"),
    ],
)
def test_an_effect_says_no_more_than_it_shows(logs: list[float], floor: float, expected: str) -> None:
    assert one(logs, floor).comparison == expected


def test_figures_beyond_all_meaning_are_none() -> None:
    """A busy machine: two processes that say opposite things, and an artifact that differs from itself as much."""
    effect = one([-20.0, 20.0, 1.0], 50.0)
    assert (effect.ratio.low, effect.ratio.high) == (None, None)
    assert (effect.noise_ratio, effect.detectable_ratio) == (None, None)
    assert effect.comparison == "inconclusive"
    assert effect.ratio.spelled().endswith("[under 0.001, over 1000]")


def test_several_comparisons_widen_the_intervals_and_one_that_fails_ends_them() -> None:
    """Holm: the surest is held to a fifth of the error, and where one does not stand, no less sure one does."""
    logs = {name: [-0.3 - 0.004 * k, -0.3, -0.3 + 0.004 * k] for k, name in enumerate("abcde", 1)}
    together = effects(logs, NO_FLOOR, 0.02)
    assert {effect.comparison for effect in together.values()} == {"faster"}
    alone = one(logs["a"])
    assert width(together["a"].ratio) > 2 * width(alone.ratio)
    noisy = effects({**logs, "z": [-0.3, 0.3, -0.1]}, NO_FLOOR, 0.02)
    assert noisy["z"].comparison == "inconclusive"
    assert one([-0.1, -0.09, -0.12]).comparison == "faster"
    concurrent = effects({str(k): [-0.1, -0.09, -0.12] for k in range(20)}, NO_FLOOR, 0.02)
    assert {effect.comparison for effect in concurrent.values()} == {"inconclusive"}


def test_so_many_processes_as_are_said_to_be_needed_settle_it() -> None:
    generator = random.Random(3)
    logs = [generator.gauss(0.05, 0.03) for _ in range(3)]
    unclear = one(logs)
    assert unclear.comparison == "inconclusive"
    assert unclear.needs_processes_count is not None
    settled = 0
    for _ in range(200):
        more = [generator.gauss(0.05, 0.03) for _ in range(2 * unclear.needs_processes_count)]
        settled += one(more).comparison == "slower"
    assert settled > 150
    assert one([0.03, 0.031, 0.029], floor=0.05).needs_processes_count is None


def test_the_detectable_effect_is_detected_four_times_out_of_five() -> None:
    generator = random.Random(4)
    sigma, count = 0.013, 10
    size = (t_quantile(0.975, count - 1) + t_quantile(0.8, count - 1)) * sigma / math.sqrt(count)
    seen = sum(
        one([generator.gauss(size, sigma) for _ in range(count)], tie_ratio=0.0).comparison == "slower"
        for _ in range(2000)
    )
    assert seen / 2000 == pytest.approx(0.8, abs=0.05)


def test_the_noise_floor_is_the_far_end_of_the_twins_interval() -> None:
    assert noise_floor([0.01, 0.01, 0.01]) == pytest.approx(0.01)
    assert noise_floor([-0.01, 0.01, 0.0]) == pytest.approx(4.303 * 0.01 / math.sqrt(3), rel=1e-3)


def test_the_median_is_over_processes() -> None:
    assert median_s([[1.0, 1.0, 9.0], [2.0, 2.0], [30.0]]) == 2.0


@pytest.mark.parametrize(
    ("share", "degrees", "value"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 9, 2.2622), (0.8, 9, 0.8834), (0.975, 30, 2.0423)],
)
def test_quantiles_match_the_table(share: float, degrees: int, value: float) -> None:
    assert t_quantile(share, degrees) == pytest.approx(value, abs=1e-4)
    assert t_cdf(value, degrees) == pytest.approx(share, abs=1e-5)
    assert t_cdf(-value, degrees) == pytest.approx(1 - share, abs=1e-5)


def test_a_percentile_needs_its_calls() -> None:
    """MLPerf's sizes without violations: 44, 90, 459 and 4,603."""
    assert [least_calls(share) for share in (0.9, 0.95, 0.99, 0.999)] == [44, 90, 459, 4603]
    calls = [float(i) for i in range(1, 1001)]
    found = percentile(calls, 0.99)
    assert found is not None
    assert found.low_s < found.value_s == 990.0 < found.high_s <= 1000.0
    assert percentile(calls[:458], 0.99) is None


@pytest.mark.parametrize(("share", "count"), [(0.5, 60), (0.9, 200), (0.99, 700), (0.99, 3000)])
def test_a_percentiles_interval_covers_it(share: float, count: int) -> None:
    generator = random.Random(5)
    held = 0
    for _ in range(400):
        found = percentile([generator.random() for _ in range(count)], share)
        assert found is not None
        held += found.low_s <= share <= found.high_s
    assert held / 400 >= 0.93


def test_a_candidate_that_slows_down_half_way_is_not_steady_and_a_machine_that_does_is() -> None:
    generator = random.Random(6)
    speed = [1.0] * 12 + [1.6] * 18
    even = [[generator.gauss(1, 0.01) * s for s in speed] for _ in range(4)]
    common = levels(even)
    assert [settled_at(series, common) for series in even] == [0, 0, 0, 0]
    changing = [generator.gauss(1, 0.01) * s * (1.0 if i < 22 else 1.3) for i, s in enumerate(speed)]
    common = levels([*even, changing])
    assert settled_at(changing, common) is None
    warming = [generator.gauss(1, 0.01) * s * (1.4 if i < 7 else 1.0) for i, s in enumerate(speed)]
    assert settled_at(warming, levels([*even, warming])) == 7


def test_one_slow_round_is_no_change() -> None:
    generator = random.Random(7)
    series = [generator.gauss(1, 0.01) for _ in range(30)]
    series[20] = 30.0
    assert settled_at(series, [0.0] * 30) == 0
