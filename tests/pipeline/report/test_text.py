"""Figures as people read them: never in exponent notation, and in the unit that their rounded value calls for."""

from __future__ import annotations

import re

import pytest

from bench.stats.effects import Ratio
from pipeline.report import numbers


@pytest.mark.parametrize(
    ("value_s", "shown"),
    [
        (0.0, "0 us"), (8.34e-6, "8.34 us"), (33.5e-6, "33.5 us"), (50e-6, "50 us"), (999.4e-6, "999 us"),
        (999.96e-6, "1 ms"), (1e-3, "1 ms"), (0.99951, "1 s"), (3.4, "3.4 s"), (123.4, "123 s"), (1234.0, "1230 s"),
        (None, "-"),
    ],
)  # fmt: skip
def test_a_duration_has_three_digits_and_its_unit(value_s: float | None, shown: str) -> None:
    assert numbers.seconds(value_s) == shown


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_060, "12.1 kB"), (999_960, "1 MB"), (10**16, "10000 TB")],
)
def test_a_size_has_three_digits_and_its_unit(size_bytes: int, shown: str) -> None:
    assert numbers.size(size_bytes) == shown


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(0.284, "0.28x"), (0.999, "1.0x"), (5.68, "5.7x"), (9.96, "10x"), (73.2, "73x"), (190.4, "190x"), (1310, "1300x")],
)
def test_how_many_times_faster_has_two_digits(ratio: float, shown: str) -> None:
    assert numbers.times(ratio) == shown


def test_no_figure_of_any_magnitude_has_an_exponent() -> None:
    for exponent in range(-12, 13):
        for value in (0.99949, 0.99951, 1.0, 9.995):
            scaled = value * 10.0**exponent
            for shown in (numbers.seconds(scaled), numbers.size(int(scaled)), numbers.times(scaled)):
                assert re.fullmatch(r"[0-9.]+( (us|ms|s|B|kB|MB|GB|TB)|x)", shown), shown


def test_a_small_ratio_keeps_two_digits_and_an_unknown_end_says_what_is_known() -> None:
    assert Ratio(value=0.0053, low=0.005, high=0.0056).spelled() == "0.0053 [0.0050, 0.0056]"
    assert Ratio(value=1.1, low=0.1, high=None).spelled() == "1.10 [0.10, over 1000]"
