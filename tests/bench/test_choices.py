"""Ties and near ties: another index passes where its score is as good, and no other; so does what it gathers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.parity.answers import Answers
from bench.parity.cases import Case, Values
from bench.parity.choice import Chosen, Ranked
from bench.parity.equivalent import thresholds
from bench.parity.golden import golden
from bench.parity.levels.structure import StructureTally
from bench.parity.run import ParityRun
from bench.parity.scores import SCORES, load_chosen
from bench.parity.spec import ParitySpec
from export.build import Source
from export.signature import Signature, SizeRange, TensorSpec
from tests.bench.conftest import right
from tests.model_run import ModelRun

CASE = Case(group="rows", name="rows 0 to 3", sizes={"batch": 4})


class Rank(nn.Module):
    """Scores that are whole numbers: many are equal."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, votes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = votes.float()
        order = scores.argsort(dim=1, descending=True)
        return scores.topk(3, dim=1).indices, order.roll(self.shift, 1), scores.argmax(1)


class Stable(nn.Module):
    """A sort that promises the order of equals, of scores that float32 holds exactly."""

    def forward(self, votes: torch.Tensor) -> torch.Tensor:
        return votes.float().sort(stable=True, dim=1).indices


class Boxes(nn.Module):
    """The best three of twelve boxes; all scores are equal where the input is zero."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.score, self.box = nn.Linear(8, 12), nn.Linear(8, 48)
        nn.init.zeros_(self.score.bias)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        top = self.score(x).sigmoid().topk(3, 1)
        boxes = self.box(x).reshape(-1, 12, 4).gather(1, top.indices[..., None].expand(-1, -1, 4))
        return top.values, boxes * self.scale, top.indices % 4


def rank(argument: str) -> nn.Module:
    return Rank(int(argument or 0)).eval()


def stable(argument: str) -> nn.Module:
    return Stable().eval()


def boxes(argument: str) -> nn.Module:
    return Boxes(float(argument or 1)).eval()


INPUTS = {
    "stable": TensorSpec("votes", "int64", ("batch", 40), low=0, high=5),
    "rank": TensorSpec("votes", "int64", ("batch", 40), low=0, high=5),
    "boxes": TensorSpec("x", "float32", ("batch", 8)),
}


def source(model: str, argument: str = "") -> Source:
    return Source(function=f"{__name__}:{model}", argument=argument)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelRun]:
    known: dict[str, ModelRun] = {}

    def run(model: str) -> ModelRun:
        if model not in known:
            signature = Signature(inputs=(INPUTS[model],), ranges={"batch": SizeRange(max=64)})
            folder = tmp_path_factory.mktemp(model) / "run"
            known[model] = ModelRun(source(model), signature, folder, ParitySpec(rows_count=256))
        return known[model]

    return run


@pytest.mark.parametrize("model", ["rank", pytest.param("boxes", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["exported", "onnx"])
def test_any_order_among_equals_passes(model: str, backend: str, runs: Callable[[str], ModelRun]) -> None:
    report = runs(model).judge(right(runs(model), backend))
    assert (report.status, report.reasons) == ("pass", ())


@pytest.mark.parametrize("model", ["rank", pytest.param("boxes", marks=pytest.mark.slow)])
def test_without_the_scores_the_same_artifact_is_refused(
    model: str, runs: Callable[[str], ModelRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: held to float64's own indices alone, another order among equals is a fault."""
    monkeypatch.setattr(ParityRun, "_again", lambda self, report, *_: report)  # equivalents choose otherwise, too
    run = runs(model)
    scores, aside = run.reference_folder / SCORES, run.folder / "aside"
    scores.rename(aside)
    try:
        assert run.judge(right(run, "onnx")).status == "fail"
    finally:
        aside.rename(scores)


@pytest.mark.parametrize(("model", "argument"), [("rank", "1"), ("boxes", "1.001")])
def test_a_wrong_pick_is_refused(model: str, argument: str, runs: Callable[[str], ModelRun], tmp_path: Path) -> None:
    """An order that is rotated by a place; boxes that are off by a thousandth."""
    folder = runs(model).build("onnx", tmp_path / "wrong", source(model, argument))
    assert runs(model).judge(folder).status == "fail"


def test_a_promised_order_of_equals_is_held_to(runs: Callable[[str], ModelRun]) -> None:
    """The twin keeps scores of the very same votes: there any order will do."""
    names = {model: runs(model).signature.output_names for model in ("stable", "rank")}
    kept = {model: load_chosen(runs(model).reference_folder / SCORES, 0, names[model][0]) for model in names}
    assert kept["stable"] is None
    assert kept["rank"] is not None


def test_golden_calls_allow_any_index_among_equals_alone(runs: Callable[[str], ModelRun]) -> None:
    run = runs("rank")
    call = next(iter(golden(run.reference, run.reference_folder, run.signature, thresholds(run.spec, ()))))
    best = call.inputs["votes"].max(1)
    tied = (call.inputs["votes"] == best[:, None]).sum(1) > 1
    assert tied.any()
    assert np.isinf(call.allowed["output_2"]).tolist() == tied.tolist()


def ranked(scores: list[list[float]], tolerance: float, *, several: bool = True) -> Ranked:
    lists = np.repeat(np.arange(len(scores)), 2).reshape(-1, 2)
    return Ranked(scores=np.array(scores), lists=lists, tolerance=tolerance, several=several)


def test_an_index_is_as_good_as_its_score() -> None:
    scores = ranked([[3.0, 3.0, 3.0 - 1e-7, 1.0, -math.inf, -math.inf]], 1e-6)
    first = np.array([[0, 1]])
    for got, good in (
        ([1, 0], [True, True]),
        ([2, 1], [True, True]),
        ([3, 1], [False, True]),  # a clear gap
        ([9, -1], [False, False]),
        ([1, 1], [False, False]),  # the same twice
    ):
        assert scores.as_good(first, np.array([got])).tolist() == [good]
    assert scores.as_good(np.array([[0, 4]]), np.array([[0, 5]])).tolist() == [[True, True]]
    assert scores.open(np.array([[0, 3]])).tolist() == [[True, False]]
    exact = ranked([[3.0, 3.0 - 1e-7, 1.0]], 0.0)
    assert exact.as_good(np.array([[0, 1]]), np.array([[1, 0]])).tolist() == [[False, False]]


def test_where_any_order_will_do_all_picks_of_a_list_count_together() -> None:
    scores = [[3.0, 2.0, 2.0, 1.0], [5.0, 4.0, 0.0, 0.0]]
    wide = np.array([[0, 1], [0, 1]])
    unordered = replace(ranked(scores, 0.0), ordered=False)
    for got, good in (
        ([[1, 0], [0, 1]], [[True, True], [True, True]]),
        ([[2, 0], [1, 0]], [[True, True], [True, True]]),
        ([[3, 0], [1, 0]], [[False, False], [True, True]]),
        ([[0, 0], [1, 1]], [[False, False], [False, False]]),
    ):
        assert unordered.as_good(wide, np.array(got)).tolist() == good
    assert not ranked(scores, 0.0).as_good(wide, np.array([[1, 0], [0, 1]]))[0].any()


def structure(got: Values, wide: Values, chosen: Chosen | None) -> StructureTally:
    tally = StructureTally("y")
    tally.add(Answers(output="y", case=CASE, wide=wide, eager=wide, got=got, chosen=lambda: chosen))
    return tally


def test_one_clear_gap_among_many_ties_is_refused() -> None:
    """Ties that were picked in another order are no allowance for what is wrong beside them."""
    chosen = Chosen(ranked=ranked([[1.0, 1.0, 0.0]] * 200, 0.0), open_rows=None)
    wide = np.tile([0, 1], (200, 1))
    other = wide[:, ::-1].copy()
    tally = structure(other, wide, chosen)
    assert (tally.checks()[0].status, tally.compared_count, tally.undefined_count) == ("pass", 400, 0)
    assert structure(other, wide, None).checks()[0].status == "fail"
    other[7, 0] = 2
    assert structure(other, wide, chosen).checks()[0].status == "fail"


def test_rows_of_another_choice_are_left_out_and_the_others_compared() -> None:
    wide = np.arange(12.0).reshape(4, 3)
    eager, got = wide.astype(np.float32), wide.astype(np.float32)
    got[1] = 50.0
    for rows, comparable in (([False, True, True, False], [3, 0, 3, 3]), ([False] * 4, [3, 3, 3, 3])):
        chosen = Chosen(ranked=None, open_rows=np.array(rows)[:, None])
        answers = Answers(output="y", case=CASE, wide=wide, eager=eager, got=got, chosen=lambda chosen=chosen: chosen)  # type: ignore[misc]
        assert answers.comparable.sum(1).tolist() == comparable


def test_what_is_kept_of_a_call_is_what_the_model_saw(runs: Callable[[str], ModelRun]) -> None:
    run = runs("boxes")
    values, boxed, labels = (load_chosen(run.reference_folder / SCORES, 0, name) for name in run.signature.output_names)
    assert values is None
    assert boxed is not None
    assert labels is not None
    assert boxed.open_rows is not None
    assert boxed.open_rows.shape == (8, 1, 1)
    assert (boxed.ranked, labels.ranked) == (None, None)
    zeros = next(index for index, case in enumerate(run.reference.cases) if case.name == "zeros")
    tied = load_chosen(run.reference_folder / SCORES, zeros, run.signature.output_names[1])
    assert tied is not None
    assert tied.open_rows is not None
    assert tied.open_rows.all()
    assert not boxed.open_rows.all()
