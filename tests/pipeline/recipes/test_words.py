from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from export.errors import UserError
from pipeline.data import Data, Split
from pipeline.recipes import words as language
from tests.pipeline.recipes.verdicts import good_verdict

pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(
        not importlib.util.find_spec("babel"), reason="extra: pip install 'torchstone[words]' brings the names"
    ),
]


@pytest.fixture(scope="module")
def data() -> Data:
    return language.data()


def names(split: Split) -> set[tuple[int, ...]]:
    return set(map(tuple, split.inputs["name"].tolist()))


def test_no_name_is_in_two_splits_and_every_language_is_in_each(data: Data) -> None:
    splits = data.splits
    assert not names(splits["train"]) & names(splits["validation"])
    assert not names(splits["test"]) & (names(splits["train"]) | names(splits["validation"]))
    for split in splits.values():
        assert split.targets.unique().tolist() == [*range(len(language.LANGUAGES))]


def test_naive_bayes_is_far_above_chance_and_below_what_the_recipe_requires(data: Data) -> None:
    baseline = language.naive_bayes(data.splits["train"], data.splits["test"])
    assert 0.5 < baseline < language.recipe().limits.min_metrics["test_accuracy"] - 0.1
    shuffled = Split(inputs=data.splits["train"].inputs, targets=data.splits["train"].targets.roll(1000))
    assert language.naive_bayes(shuffled, data.splits["test"]) < 0.1


def test_zeros_after_the_end_change_nothing_and_a_letter_does() -> None:
    model = language.NGrams().eval()
    short, long = (model(language.encode(["Schweiz", "スイス"], length)) for length in (12, 48))
    torch.testing.assert_close(short, long)
    assert not torch.allclose(short, model(language.encode(["Schweit", "スイン"], 12)))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(UserError, match=r"words needs babel: pip install '.*\[words\]'"):
        language.data()


@pytest.mark.slow
def test_words_from_nothing_to_a_good_verdict(tmp_path: Path) -> None:
    verdict = good_verdict("words", tmp_path)
    assert verdict.metrics["test_accuracy"] >= 0.65
