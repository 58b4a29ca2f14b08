"""What is compared at the better of its thread counts, and what that leaves as it was."""

import math
from dataclasses import replace

import pytest

from bench.timing.measurement import Measurement
from bench.verdict.figures import Rounds, figures
from bench.verdict.threads import better_options
from export.backend import LoadOptions
from tests.bench.test_verdict import measurement, samples, session

ASKED = LoadOptions(threads_count=2)


def never(options: LoadOptions) -> bool:
    """No limit."""
    return False


def timed(one_thread_us: float, two_threads_us: float, *batches: int) -> Measurement:
    """Both thread counts at every batch size, the second asked for."""
    series = [
        replace(sample, threads_count=count, batch_rows=rows)
        for count, us in ((1, one_thread_us), (2, two_threads_us))
        for rows in batches or (1,)
        for sample in samples((us,) * 3)
    ]
    return replace(measurement("a", (1.0, 1.0, 1.0)), options=ASKED, samples=tuple(series))


@pytest.mark.parametrize(
    ("one_thread_us", "two_threads_us", "chosen"), [(10, 20, 1), (20, 10, 2), (10, 10.1, 2), (10, 10.3, 1)]
)
def test_the_asked_count_stays_unless_another_is_faster_by_more_than_indifference(
    one_thread_us: float, two_threads_us: float, chosen: int
) -> None:
    assert better_options(timed(one_thread_us, two_threads_us), ASKED, 0.02, never).threads_count == chosen


def test_one_count_serves_all_batch_sizes_by_their_geometric_mean() -> None:
    small, large = timed(10, 15, 1), timed(100, 50, 1024)
    both = replace(small, samples=(*small.samples, *large.samples))
    assert better_options(both, ASKED, 0.02, never).threads_count == 2
    assert better_options(small, ASKED, 0.02, never).threads_count == 1


def test_a_count_at_which_a_limit_does_not_hold_is_not_the_better_one_unless_it_holds_at_none() -> None:
    def at_one_thread(options: LoadOptions) -> bool:
        return options.threads_count == 1

    assert better_options(timed(10, 20), ASKED, 0.02, at_one_thread) == ASKED
    assert better_options(timed(20, 10), ASKED, 0.02, lambda options: not at_one_thread(options)).threads_count == 1
    assert better_options(timed(10, 20), ASKED, 0.02, lambda options: True).threads_count == 1


def test_a_count_that_was_not_timed_at_every_batch_size_is_not_chosen() -> None:
    whole = timed(10, 20, 1, 32)
    part = [sample for sample in whole.samples if (sample.threads_count, sample.batch_rows) != (1, 32)]
    assert better_options(replace(whole, samples=tuple(part)), ASKED, 0.02, never) == ASKED


@pytest.mark.parametrize("compared_at", [1, 2])
def test_figures_are_those_of_the_count_and_the_control_is_held_to_its_own(compared_at: int) -> None:
    """Eager takes 20 us with two threads, as its A/A control does, and 10 with one: that is no noise."""
    eager = replace(timed(10, 20), artifact="eager", options=replace(ASKED, threads_count=compared_at))
    again = [replace(sample, threads_count=2) for sample in session().control_samples]
    rounds = Rounds(replace(session(), control_samples=tuple(again)), {"eager": eager})
    assert math.exp(rounds.noise_over_batches(rounds.batches)) == pytest.approx(1)
    (speed,) = figures(rounds, None)["eager"].speeds
    assert speed.median_s == pytest.approx({1: 10e-6, 2: 20e-6}[compared_at])
    assert speed.at_threads == pytest.approx({"2": 20e-6} if compared_at == 1 else {"1": 10e-6})
