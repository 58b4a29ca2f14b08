from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from export.errors import UserError
from pipeline.data import Data
from pipeline.recipes import forecast
from tests.conftest import pipeline
from tests.pipeline.recipes.verdicts import good_verdict

HAVE = importlib.util.find_spec("bokeh_sampledata")
pytestmark = pytest.mark.extra
needs_data = pytest.mark.skipif(not HAVE, reason="extra: pip install 'torchstone[forecast]' brings the readings")


@pytest.fixture
def gap(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """400 readings that are their own numbers, five minutes apart, but an hour between the numbers 99 and 100."""
    numbers = torch.arange(400.0)
    monkeypatch.setattr(forecast, "readings", lambda: (5 * numbers + 60 * (numbers >= 100), numbers))
    return numbers


def all_windows(data: Data) -> list[tuple[float, float]]:
    """The first reading that each row sees, and the one to foretell."""
    return [
        (float(past[0]), float(targets[0]))
        for split in data.splits.values()
        for past, targets in zip(split.inputs["glucose"], split.targets, strict=True)
    ]


def test_no_window_lies_across_a_gap_or_two_periods(gap: torch.Tensor) -> None:
    data = forecast.data()
    for first, foretold in all_windows(data):
        assert foretold - first == forecast.PAST + forecast.AHEAD - 1
        assert not first < 100 <= foretold
    ends = {name: split.targets[:, 0].max() for name, split in data.splits.items()}
    begins = {name: split.inputs["glucose"].min() for name, split in data.splits.items()}
    assert ends["train"] < 280 <= begins["validation"]
    assert ends["validation"] < 340 <= begins["test"]


def test_without_the_gap_there_are_windows_there(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(400.0)
    monkeypatch.setattr(forecast, "readings", lambda: (5 * numbers, numbers))
    assert any(first < 100 <= foretold for first, foretold in all_windows(forecast.data()))


def test_the_last_reading_has_no_skill_and_the_truth_has_all_of_it(gap: torch.Tensor) -> None:
    targets = forecast.data().splits["test"].targets
    assert float(forecast.last_value_error(targets)) == forecast.AHEAD
    assert forecast.skill(targets[:, 1], targets) == 0
    assert forecast.skill(targets[:, 0], targets) == 1


@needs_data
def test_the_readings_are_what_the_package_says() -> None:
    minutes, glucose = forecast.readings()
    assert len(minutes) == len(glucose) == 52281
    assert (minutes.diff() >= 0).all()
    assert (glucose >= 40).all()
    assert (glucose <= 400).all()
    assert forecast.data().splits["test"].rows_count > 5000


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"forecast needs bokeh-sampledata: pip install '.*\[forecast\]'"):
        forecast.readings_file()


@needs_data
@pytest.mark.slow
def test_forecast_from_nothing_to_a_good_verdict(tmp_path: Path) -> None:
    verdict = good_verdict("forecast", tmp_path)
    assert verdict.metrics["test_skill"] >= forecast.recipe().limits.min_metrics["test_skill"]


@pytest.mark.slow
def test_what_is_compiled_where_one_thread_is_the_default_is_loaded_with_all(tmp_path: Path) -> None:
    """Its standalone form takes sizes for granted: it comes with Inductor's cache, whose keys have the threads."""
    done = pipeline(
        "forecast", "--backends", "eager", "compile", "--required", "eager", "--only", "parity", "--train.epochs", "1",
        "--out", tmp_path, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert "compile: pass" in done.stdout, done.stdout + done.stderr
