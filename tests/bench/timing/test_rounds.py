"""How many rounds are timed, which of them a real neighbour spoilt, and what becomes of those."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from math import log
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from bench.stats.enough import LEAST_ROUNDS, is_enough
from bench.stats.simulated import Pair, coverage
from bench.timing.block import Block
from bench.timing.concurrency import CallersTime, callers_together
from bench.timing.measurement import Measurement
from bench.timing.processes import rounds
from bench.timing.processes.rounds import Plan, Round, Timed, is_spoilt, timed
from bench.timing.spec import BenchSpec
from bench.verdict.judge import Evidence
from bench.verdict.spoilt import spoilt
from bench.verdict.threads import better_options
from export.backend import LoadOptions
from export.device import HOST
from pipeline.report import text
from tests.bench.test_verdict import EAGER, evidence, samples, session, verdict

TURN = Timed(bound_s=1e-3, queued_s=None, checked_s=None, calls_s=[], spoilt=False)
SPINS = "import os\nos.sched_setaffinity(0, {int(os.sys.argv[1])})\nprint(flush=True)\nwhile True: pass"


@pytest.fixture
def beside_a_neighbour() -> Iterator[None]:
    """This process is held to one core, which another one spins on."""
    cores = os.sched_getaffinity(0)
    core = min(cores)
    neighbour = subprocess.Popen([sys.executable, "-c", SPINS, str(core)], stdout=subprocess.PIPE)
    try:
        assert neighbour.stdout is not None
        neighbour.stdout.readline()
        os.sched_setaffinity(0, {core})
        yield
    finally:
        os.sched_setaffinity(0, cores)
        neighbour.kill()
        neighbour.communicate()


def shares() -> tuple[float, float]:
    """The share that is spoilt of real samples, and of those that are kept, of two candidates that are as fast."""
    blocks = {}
    for label in ("a", "b"):
        blocks[label] = Block([lambda: sum(range(2000))] * 4, lambda: None)
        blocks[label].warm_up(5, 0.01, 1.0, 0.002)
    every: list[Round] = []

    def take() -> Round:
        every.append({label: timed(block) for label, block in blocks.items()})
        return every[-1]

    kept = Plan(rounds_count=40, largest_error=None).timed(take)
    return spoilt_share(every), spoilt_share(kept)


def spoilt_share(rounds: list[Round]) -> float:
    return sum(turn.spoilt for taken in rounds for turn in taken.values()) / (2 * len(rounds))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are held to a core by Linux")
@pytest.mark.usefixtures("beside_a_neighbour")
def test_a_neighbour_on_the_same_core_is_seen_and_what_it_spoilt_least_is_kept() -> None:
    all_share, kept_share = shares()
    assert all_share > 0.1
    assert kept_share < all_share


@pytest.mark.skipif(sys.platform != "linux", reason="processes are held to a core by Linux")
@pytest.mark.usefixtures("beside_a_neighbour")
def test_without_the_time_that_was_waited_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin."""
    monkeypatch.setattr(rounds, "waited_s", lambda: 0.0)
    assert shares() == (0.0, 0.0)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are held to a core by Linux")
@pytest.mark.usefixtures("beside_a_neighbour")
def test_where_the_system_does_not_tell_how_long_it_is_seen_by_how_often(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rounds, "_THREADS", tmp_path / "none")
    assert shares()[0] > 0.1


def test_what_was_waited_spoils_a_short_sample_and_not_a_long_one() -> None:
    assert is_spoilt(0.003, 0.002)
    assert not is_spoilt(0.003, 1.0)
    assert is_spoilt(0.06, 1.0)
    assert not is_spoilt(0.0, 1e-6)


def turns(spoilt: str) -> Iterator[Round]:
    """Rounds of two candidates; each letter is one: whole, with one of them spoilt, or with both."""
    for number, letter in enumerate(spoilt):
        turn = replace(TURN, bound_s=1e-3 + number * 1e-6)
        yield {"a": replace(turn, spoilt=letter in "12"), "b": replace(turn, spoilt=letter == "2")}


def numbers(rounds: list[Round]) -> list[int]:
    return [round((taken["a"].bound_s - 1e-3) * 1e6) for taken in rounds]


@pytest.mark.parametrize(
    ("letters", "kept"),
    [
        ("....", [0, 1, 2, 3]),
        (".1...", [0, 2, 3, 4]),
        ("2.1...", [1, 3, 4, 5]),
        ("222222", [0, 1, 2, 3]),
        ("212.2.", [1, 3, 5]),
    ],
)
def test_spoilt_rounds_are_timed_again_and_the_least_spoilt_are_kept_where_that_does_not_help(
    letters: str, kept: list[int]
) -> None:
    rounds = Plan(rounds_count=4, largest_error=None).timed(turns(letters).__next__)
    assert len(rounds) == 4
    assert numbers(rounds)[: len(kept)] == kept or set(kept) <= set(numbers(rounds))


def noisy(sigma: float) -> Iterator[Round]:
    """Rounds of two candidates, of which one swings by so much."""
    for number in range(100):
        yield {"a": TURN, "b": replace(TURN, bound_s=1e-3 * (1 + sigma * (-1) ** number * (1 + number % 3)))}


@pytest.mark.parametrize(
    ("sigma", "largest_error", "count"), [(1e-4, 0.01, LEAST_ROUNDS), (1e-4, None, 20), (0.2, 0.01, 20)]
)
def test_rounds_end_when_medians_are_exact_enough_and_where_that_is_asked(
    sigma: float, largest_error: float | None, count: int
) -> None:
    assert len(Plan(rounds_count=20, largest_error=largest_error).timed(noisy(sigma).__next__)) == count


def test_a_claim_takes_all_its_rounds_and_callers_their_whole_time() -> None:
    assert BenchSpec(depth="claim").largest_round_error is None
    assert BenchSpec(depth="claim").callers_time == CallersTime(least_s=0.1, most_s=0.1)
    assert BenchSpec().largest_round_error == 0.01


def test_callers_with_few_answers_go_on_and_those_with_enough_end() -> None:
    many, few = ([run] for run in (lambda: None, lambda: time.sleep(2e-3)))
    spell = CallersTime(least_s=0.02, most_s=0.1)
    assert callers_together(0, many, 1, spell, 1, HOST).duration_s < 0.1
    assert callers_together(0, few, 1, spell, 1, HOST).duration_s >= 0.1


def is_ahead(pair: Pair) -> bool:
    """A rule that looks at who is ahead."""
    return median(log(a / b) for a, b in zip(*pair, strict=True)) < log(0.8)


def test_intervals_hold_the_truth_as_often_as_they_say_though_rounds_end_early() -> None:
    assert coverage(20, trials=100) == pytest.approx(0.95, abs=0.05)


def test_they_would_not_if_rounds_ended_when_one_is_ahead() -> None:
    """The twin."""
    assert coverage(40, trials=150, stop=is_ahead) < 0.9


def test_a_stalled_round_does_not_keep_the_others_from_being_enough() -> None:
    steady = [1e-3] * 12
    assert is_enough([steady, [*steady[:5], 1.0, *steady[6:]]], 0.01)
    assert not is_enough([steady[:9], steady[:9]], 0.01)


def hit(row: Evidence, count: int) -> Evidence:
    """The same, with so many of each process's five samples spoilt."""
    assert row.measurement is not None
    series = tuple(replace(each, spoilt_count=count) for each in row.measurement.samples)
    return replace(row, measurement=replace(row.measurement, samples=series))


FAST, SLOW = evidence("onnx", (2.0, 2.02, 1.98)), evidence("torchscript", (10.0, 10.1, 9.9))


def test_what_a_neighbour_spoilt_has_no_ratio_no_rank_and_a_reason() -> None:
    result = verdict(FAST, hit(SLOW, 2))
    row = result.rows[2]
    assert (result.winner, result.good) == ("onnx", True)
    (speed,) = row.speeds
    assert (text.speed(speed), speed.to_eager) == ("-", None)
    assert speed.spoilt == "during 6 of 15 samples others had a core"
    assert row.why_not == f"not ranked: {speed.spoilt} at batch 1"
    assert not row.on_pareto_front
    assert any("others took cores: torchscript at batch 1" in reason for reason in result.reasons)


def test_what_it_did_not_spoil_has_all_three() -> None:
    """The twin: one sample of five is less than a median minds."""
    result = verdict(FAST, hit(SLOW, 1))
    row = result.rows[2]
    assert row.why_not == "takes 5.00 [5.00, 5.00] times onnx's time"
    assert row.speeds[0].to_eager is not None
    assert text.speed(row.speeds[0]) == "10 us (2.0x)"


def test_what_is_the_fastest_though_it_was_spoilt_wins_without_a_ratio() -> None:
    """Others only add to a time."""
    result = verdict(hit(FAST, 2), SLOW)
    assert result.winner == "onnx"
    assert result.reasons[0] == "onnx took the least time, though others took cores from it: nobody knows by how much"
    assert result.rows[2].why_not == "took longer than onnx, from which others took cores"
    assert result.rows[1].speeds[0].to_eager is None


def test_nothing_is_compared_with_a_baseline_that_was_spoilt() -> None:
    result = verdict(SLOW, eager=hit(EAGER, 3))
    assert [row.speeds[0].to_eager for row in result.rows] == [None, None]


def test_where_all_are_spoilt_the_simplest_ships_and_no_speed_is_claimed() -> None:
    result = verdict(hit(FAST, 5), hit(SLOW, 5))
    assert (result.winner, result.good) == ("onnx", True)
    assert result.reasons[0].startswith("nobody's speed is known, since others took the cores: onnx is the simplest")


def test_a_batch_size_that_was_spoilt_for_all_is_left_out_of_the_ranking() -> None:
    def at_two_sizes(row: Evidence) -> Evidence:
        assert row.measurement is not None
        larger = tuple(replace(each, batch_rows=32, spoilt_count=5) for each in row.measurement.samples)
        return replace(row, measurement=replace(row.measurement, samples=(*row.measurement.samples, *larger)))

    control = tuple(replace(each, batch_rows=32) for each in samples((20.0, 20.0, 20.0)))
    shared = replace(session(), control_samples=(*session().control_samples, *control))
    result = verdict(at_two_sizes(FAST), at_two_sizes(SLOW), eager=at_two_sizes(EAGER), shared=shared)
    assert result.reasons[0].startswith("onnx is the fastest over batch 1: the next, torchscript, takes 5.00")


def test_an_artifact_is_compared_at_the_thread_count_that_was_left_alone() -> None:
    two = tuple(replace(each, threads_count=2) for each in samples((1.0, 1.0, 1.0)))
    asked = LoadOptions(threads_count=2)

    def chosen(count: int) -> Any:
        spoilt_two = tuple(replace(each, spoilt_count=count) for each in two)
        assert EAGER.measurement is not None
        measured: Measurement = replace(EAGER.measurement, samples=(*samples((2.0, 2.0, 2.0)), *spoilt_two))
        return better_options(measured, asked, 0.02, lambda _: False).threads_count

    assert (chosen(3), chosen(0)) == (1, 2)


def test_samples_of_all_processes_count_together() -> None:
    few, many = (replace(each, spoilt_count=count) for each, count in zip(samples((1.0, 1.0)), (0, 3), strict=True))
    assert spoilt([few, many]) == "during 3 of 10 samples others had a core"
    assert spoilt([few, few, many]) is None
