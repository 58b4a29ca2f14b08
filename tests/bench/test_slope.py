"""Slopes and their certainty: ordinary least squares claims too much where noise is unequal and few rows count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.stats.effects import t_quantile
from bench.stats.slope import Slopes, SlopeSums

Values = np.ndarray[Any, Any]
CHANCE = 0.01


def slopes(y: Values, e: Values) -> Slopes:
    sums = SlopeSums()
    for part in np.array_split(np.arange(len(y)), 3):  # added in parts, as cases are
        sums.add(y[part][:, None], e[part][:, None], np.ones_like(y[part][:, None], bool))
    return sums.slopes()


def ordinary(y: Values, e: Values) -> Values:
    """Ordinary least squares' verdict at the same chance."""
    y, e = y - y.mean(0), e - e.mean(0)
    variation = np.square(y).sum(0) + 1e-300
    slope = (y * e).sum(0) / variation
    error = np.sqrt(np.square(e - slope * y).sum(0) / (len(y) - 2) / variation)
    return np.asarray(np.abs(slope) > t_quantile(1 - CHANCE / 2 / y.shape[1], 200) * error + 1e-300)


def features(seed: int) -> tuple[Values, Values]:
    """An MLP's ReLU features in float64, and the error of float32 with its products summed in another order."""
    torch.manual_seed(seed)
    middle = nn.Linear(384, 384)
    body = nn.Sequential(nn.Linear(16, 384), nn.ReLU(), middle, nn.ReLU(), nn.Linear(384, 384), nn.ReLU())
    x = torch.randn(1024, 16)
    order = torch.randperm(384)
    with torch.no_grad():
        truth = body.double()(x.double())
        body.float()
        hidden = body[:2](x)[:, order]
        narrow = body[3:](nn.functional.linear(hidden, middle.weight[:, order], middle.bias))
    return truth.numpy(), (narrow.double() - truth).numpy()


def test_relu_features_of_right_artifacts_have_no_slope() -> None:
    refused = [bool(slopes(*features(seed)).stands_out(CHANCE).any()) for seed in range(20)]
    assert sum(refused) <= 1


def test_ordinary_least_squares_finds_slopes_in_them() -> None:
    """The twin: what the level did before."""
    assert sum(bool(ordinary(*features(seed)).any()) for seed in range(20)) >= 5


@pytest.mark.parametrize("times", [4.0, 10.0])
def test_a_planted_slope_is_seen(times: float) -> None:
    y, e = features(0)
    channel = int(np.square(y).sum(0).argmax())
    e[:, channel] += times * 2.0**-24 * y[:, channel]
    standing = slopes(y, e).stands_out(CHANCE)
    assert standing[channel]


def test_a_slope_that_rests_on_few_rows_is_not_judged() -> None:
    y, e = np.zeros((1000, 1)), np.zeros((1000, 1))
    y[:5], e[:5] = np.arange(1, 6)[:, None], 1e-6 * np.arange(1, 6)[:, None]
    few = slopes(y, e)
    assert few.clusters[0] < 6
    assert not few.can_tell[0]
    assert not few.stands_out(CHANCE)[0]


def test_values_of_one_row_are_one_observation() -> None:
    """A row's elements share their error: taken for independent, they would show a slope of chance."""
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((60, 1, 8))
    y = np.repeat(shared, 500, 1) + 1e-3 * generator.standard_normal((60, 500, 8))
    e = np.repeat(generator.standard_normal((60, 1, 8)), 500, 1)
    valid = np.ones(y.shape, bool)
    clustered, flat = SlopeSums(), SlopeSums()
    clustered.add(y, e, valid)
    flat.add(y.reshape(-1, 1, 8), e.reshape(-1, 1, 8), valid.reshape(-1, 1, 8))
    assert not clustered.slopes().stands_out(CHANCE).any()
    assert flat.slopes().stands_out(CHANCE).any()


def test_an_origin_far_away_changes_nothing() -> None:
    generator = np.random.default_rng(0)
    y, e = generator.standard_normal((400, 3)), 1e-7 * generator.standard_normal((400, 3))
    near, far = slopes(y, e), slopes(y + 1e6, e)
    assert np.allclose(near.slope, far.slope, rtol=1e-6)
    assert np.allclose(near.error, far.error, rtol=1e-6)
