"""Slopes of errors: none is seen where there is none, whatever the noise; a planted one is; the old way saw many."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from bench.parity.answers import Answers
from bench.parity.cases import Case, Values
from bench.parity.check import Check
from bench.parity.levels.systematic import SlopeTally
from bench.parity.spec import Thresholds
from bench.stats.slope import Slopes, SlopeSums, score_quantile

U = float(np.finfo(np.float32).eps) / 2
LIMITS = Thresholds(max_rms_ratio=2.0, max_peak_ratio=4.0, max_slope_ulps=4.0)
ROWS, CHUNK = 2048, 256
RIGHT = [(width, seed) for width in (384, 768) for seed in range(4)]


def slopes(values: Values, errors: Values, chunk: int = 97) -> Slopes:
    """Rows ``(rows, channels)`` or ``(rows, elements, channels)``, added piece by piece."""
    y, e = (a if a.ndim == 3 else a[:, None, :] for a in (values, errors))
    sums = SlopeSums()
    for start in range(0, len(y), chunk):
        part = slice(start, start + chunk)
        sums.add(y[part], e[part], np.ones(y[part].shape, bool))
    result = sums.result()
    assert result is not None
    return result


def ordinary(values: Values, errors: Values) -> Values:
    """Scores by ordinary least squares, which takes noise for equal everywhere and elements for independent."""
    y, e = (a.reshape(-1, a.shape[-1]) for a in (values, errors))
    y, e = y - y.mean(0), e - e.mean(0)
    spread = np.maximum((y**2).sum(0), 1e-300)
    slope = (e * y).sum(0) / spread
    left = ((e - slope * y) ** 2).sum(0) / (len(y) - 2)
    return np.asarray(slope / np.sqrt(np.maximum(left / spread, 1e-300)))


def rare(generator: np.random.Generator, channels: int) -> tuple[Values, Values]:
    """Values that are zero in all but a few rows, and rounding that grows with them."""
    shift = generator.uniform(-3, 0, channels)
    y = np.maximum(generator.standard_normal((512, channels)) + shift, 0.0)
    return y, y * U * generator.standard_normal(y.shape)


def images(generator: np.random.Generator, channels: int) -> tuple[Values, Values]:
    """Elements of a row that share their level, and their error."""
    y = generator.standard_normal((128, 1, channels)) + 0.1 * generator.standard_normal((128, 16, channels))
    return y, np.broadcast_to(U * generator.standard_normal((128, 1, channels)), y.shape)


@pytest.mark.parametrize("draw", [rare, images])
def test_where_there_is_no_slope_none_is_seen_more_often_than_stated(draw: object) -> None:
    """200 families of 32 channels at an error of a tenth; ordinary least squares sees one in nearly every family."""
    assert callable(draw)
    seen = seen_ordinarily = 0
    for seed in range(200):
        y, e = draw(np.random.default_rng(seed), 32)
        quantile = score_quantile(0.1, 32)
        seen += bool((np.abs(slopes(y, e, 512).score) > quantile).any())
        seen_ordinarily += bool((np.abs(ordinary(y, e)) > quantile).any())
    assert seen <= 20
    assert seen_ordinarily > 100


def test_the_score_is_that_of_all_rows_at_once() -> None:
    """The running products give what the definition gives, also around a large mean."""
    generator = np.random.default_rng(0)
    y = 1000.0 + generator.standard_normal((300, 5, 4))
    e = U * (generator.standard_normal(y.shape) + 0.5 * y)
    result = slopes(y, e)
    z, r = y - y.mean((0, 1)), e - e.mean((0, 1))
    scores, leverages = (z * r).sum(1), (z**2).sum(1)
    assert result.slope == pytest.approx(scores.sum(0) / leverages.sum(0), rel=1e-9)
    assert result.score == pytest.approx(scores.sum(0) / np.sqrt((scores**2).sum(0)), rel=1e-6)
    assert result.effective_rows == pytest.approx(leverages.sum(0) ** 2 / (leverages**2).sum(0), rel=1e-9)


def test_a_channel_that_varies_in_five_rows_has_about_five() -> None:
    y = np.zeros((2048, 2))
    y[:5, 0] = 1.0
    assert slopes(y, y * U).effective_rows == pytest.approx([5.0, 0.0], rel=0.02)
    assert math.isclose(float(slopes(y, y * U).score[0]), math.sqrt(5), rel_tol=0.02)


@functools.cache
def answered(width: int, seed: int) -> tuple[Values, Values, Values]:
    """Float64, eager and a right artifact of three ``Linear`` + ``ReLU``: its sums are made of two halves."""
    torch.manual_seed(seed)
    module = nn.Sequential(*[part for _ in range(3) for part in (nn.Linear(width, width), nn.ReLU())])
    order = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        x = torch.randn(ROWS, width)
        eager, y = module(x).numpy(), x
        for part in module:
            if isinstance(part, nn.Linear):
                first, second = torch.randperm(width, generator=order).chunk(2)
                halves = (y[:, half] @ part.weight[:, half].T for half in (first, second))
                y = next(halves) + next(halves) + part.bias
            else:
                y = part(y)
        return module.double()(x.double()).numpy(), eager, y.numpy()


def check(wide: Values, eager: Values, got: Values) -> Check:
    tally = SlopeTally("y")
    for start in range(0, len(wide), CHUNK):
        part = slice(start, start + CHUNK)
        case = Case(group="rows", name=f"rows from {start}", sizes={"batch": CHUNK}, start=start)
        tally.add(Answers(output="y", case=case, wide=wide[part], eager=eager[part], got=got[part]))
    (result,) = tally.checks(LIMITS)
    return result


@pytest.mark.parametrize(("width", "seed"), RIGHT)
def test_features_behind_a_relu_pass_and_a_scale_that_is_off_fails(width: int, seed: int) -> None:
    wide, eager, got = answered(width, seed)
    right = check(wide, eager, got)
    assert (right.status, right.message) == ("pass", right.message)
    assert f"of {width} channels; the others vary in too few rows" in right.message
    scaled = np.asarray(got.astype(np.float64) * (1 + 2.0**-20), np.float32)
    assert check(wide, eager, scaled).status == "fail"


def test_ordinary_standard_errors_refuse_them() -> None:
    """The twin: the same slopes, judged by six ordinary standard errors."""
    refused = 0
    for width, seed in RIGHT:
        wide, eager, got = answered(width, seed)
        errors, own = got.astype(np.float64) - wide, eager.astype(np.float64) - wide
        slope, of_eager = (np.abs(slopes(wide, e).slope) for e in (errors, own))
        steep = (slope > LIMITS.max_slope_ulps * U) & (slope > 3 * of_eager)
        refused += bool((steep & (np.abs(ordinary(wide, errors)) > 6)).any())
    assert refused > len(RIGHT) / 2


def test_rows_that_come_again_are_no_new_observations() -> None:
    """Sixteen rows, however often: by chance their errors seem to grow, and a hundred copies make no proof of it."""
    generator = np.random.default_rng(3)
    y = generator.standard_normal((16, 1))
    wide, noise = np.tile(y, (128, 1)), np.tile(20 * U * y + U * generator.standard_normal(y.shape), (128, 1))
    eager = wide.astype(np.float32)
    assert check(wide, eager, np.asarray(wide + noise, np.float32)).status == "reported"
    fresh = generator.standard_normal((2048, 1))
    got = np.asarray(fresh * (1 + 20 * U), np.float32)
    assert check(fresh, fresh.astype(np.float32), got).status == "fail"
