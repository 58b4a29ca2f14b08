"""Blood glucose half an hour ahead, from the last two hours of a continuous monitor: convolutions over time.

52,281 readings of one person, every five minutes from March to October 2010, as bokeh-sampledata carries them: in the
public domain, given to a maintainer of Bokeh for that. A window has no gap; the test split is the last fifteen per cent
of the time, the validation split the fifteen before, and no window lies across two. That the last reading stays is
the baseline to beat: ``skill`` is the share of its mean absolute error that the network saves.

A demonstration of forecasting, and not a medical device.

Needs the extra: pip install 'torchstone[forecast]'.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
from datetime import datetime
from pathlib import Path

import torch
from torch import nn

from bench.verdict.limits import Limits
from export import hints
from export.errors import UserError
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.data import Data, Split
from pipeline.recipe import Recipe, TrainSpec

PAST, AHEAD = 24, 6
"""Readings that are seen, and how many later the one lies that is foretold."""
_MINUTES_APART = 5
_SHARES = (0.7, 0.15, 0.15)
_TYPICAL, _SPREAD, _STEP = 150.0, 60.0, 30.0
"""What glucose is about, how far it strays, and what it changes by in half an hour, in mg/dL."""


class Forecaster(nn.Module):
    """Readings ``(batch, 24)`` in mg/dL, five minutes apart, to the one half an hour after the last, ``(batch,)``.

    It foretells the change from the last reading.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv1d(2, width, 5, padding=2), nn.ReLU(),
            nn.Conv1d(width, width, 5, padding=2, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(width * PAST // 2, width), nn.ReLU(), nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, glucose: torch.Tensor) -> torch.Tensor:
        """Glucose in mg/dL."""
        last = glucose[:, -1:]
        seen = torch.stack([(glucose - _TYPICAL) / _SPREAD, (glucose - last) / _STEP], dim=1)
        change: torch.Tensor = _STEP * self.change(seen)
        return (last + change).squeeze(1)


def readings_file() -> Path:
    """The file within the package; found without importing it, which would load pandas.

    Raises:
        UserError: the package is missing.
    """
    package = importlib.util.find_spec("bokeh_sampledata")
    if package is None or not package.submodule_search_locations:
        raise UserError(f"the recipe forecast needs bokeh-sampledata: {hints.install('forecast')}")
    return Path(package.submodule_search_locations[0]) / "_data" / "CGM.csv.gz"


def readings() -> tuple[torch.Tensor, torch.Tensor]:
    """Minutes since the first reading, and glucose in mg/dL, each ``(readings,)``."""
    with gzip.open(readings_file(), "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [datetime.fromisoformat(row["datetime"]) for row in rows]
    minutes = torch.tensor([(time - times[0]).total_seconds() / 60 for time in times])
    return minutes, torch.tensor([float(row["glucose"]) for row in rows])


def data() -> Data:
    """Windows without gaps, in three periods one after the other.

    Targets ``(rows, 2)`` are the reading to foretell, and the last one that is seen: the baseline needs no more.
    """
    minutes, glucose = readings()
    window = PAST + AHEAD
    times, values = minutes.unfold(0, window, 1), glucose.unfold(0, window, 1)
    whole = ((times[:, 1:] - times[:, :-1] - _MINUTES_APART).abs() <= 1).all(1)  # its clock is read to the minute
    splits, first = [], 0.0
    for share in _SHARES:
        begin, end = round(first * len(glucose)), round((first + share) * len(glucose))
        kept = values[begin : end - window + 1][whole[begin : end - window + 1]]
        splits.append(Split(inputs={"glucose": kept[:, :PAST].contiguous()}, targets=kept[:, [-1, PAST - 1]]))
        first += share
    return Data(train=splits[0], validation=splits[1], test=splits[2])


def loss(forecast: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean absolute error in units of a typical change: a squared one would heed the rare leaps alone."""
    return mean_absolute_error(forecast, targets) / _STEP


def mean_absolute_error(forecast: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """In mg/dL."""
    return (forecast - targets[:, 0]).abs().mean()


def last_value_error(targets: torch.Tensor) -> torch.Tensor:
    """The baseline: the mean absolute error in mg/dL of saying that nothing changes."""
    return (targets[:, 1] - targets[:, 0]).abs().mean()


def skill(forecast: torch.Tensor, targets: torch.Tensor) -> float:
    """The share of the baseline's error that is saved: 0 is no better than the last reading, 1 is without error."""
    return float(1 - mean_absolute_error(forecast, targets) / last_value_error(targets))


def recipe() -> Recipe:
    """AdamW with a cosine schedule, the best epoch by validation loss."""
    return Recipe(
        name="forecast",
        model=Forecaster,
        signature=Signature(
            inputs=(TensorSpec("glucose", "float32", ("batch", PAST), low=40, high=400),),
            output_names=("forecast",),
            ranges={"batch": SizeRange(max=4096)},
        ),
        data=data,
        loss=loss,
        metrics={
            "skill": skill,
            "mae": lambda forecast, targets: float(mean_absolute_error(forecast, targets)),
            "last_value_mae": lambda _, targets: float(last_value_error(targets)),
        },
        files=(readings_file(),),
        train=TrainSpec(
            epochs=12, batch_rows=256, optimizer="adamw", lr=3e-3, weight_decay=0.01, schedule="cosine", keep="best",
            print_every_epochs=3,
        ),
        limits=Limits(min_metrics={"test_skill": 0.2}),
    )  # fmt: skip
