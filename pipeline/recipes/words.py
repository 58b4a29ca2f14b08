"""The language of a name, one of forty: names of countries, languages and currencies; byte n-grams, dynamic length.

The data is the Unicode CLDR's, as babel carries it (Unicode licence v3). Its terms ("Japan", "Swiss franc") are
divided, not its rows, and a name that two terms share stays with the earlier split: no name of the test split was
trained on. Many are the same in several languages ("Argentina"), so that nobody can be right about all of them. Chance
is 2.5 %; ``naive_bayes`` is the baseline to beat.

The model sums up the embeddings of hashed n-grams, as fastText does (Joulin et al., 2016, arXiv:1607.01759).

Needs the extra: pip install 'torchstone[words]'.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bench.verdict.limits import Limits
from export import hints
from export.errors import UserError
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.data import Data, Split
from pipeline.recipe import Recipe, TrainSpec

LANGUAGES = (
    "am", "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi", "hr",
    "hu", "hy", "id", "is", "it", "ja", "ka", "ko", "lt", "lv", "ms", "nb", "nl", "pl", "pt", "ro", "ru", "sk",
    "sl", "sv", "tr", "vi",
)  # fmt: skip
"""CLDR's codes, in the order of the model's logits."""
LENGTH = 48
"""Bytes per name in the data, longer ones are cut; the model itself takes any length in the signature's range."""
_KINDS = ("territories", "languages", "currencies")
_TRAIN_SHARE, _VALIDATION_SHARE = 0.8, 0.1


class NGrams(nn.Module):
    """Names ``(batch, length)``, UTF-8 bytes and zeros after the end, to logits ``(batch, 40)``."""

    def __init__(self, longest: int = 4, buckets_count: int = 2**13, width: int = 64) -> None:
        super().__init__()
        self.buckets_count = buckets_count
        self.embeddings = nn.ModuleList(nn.Embedding(buckets_count, width) for _ in range(longest))
        for embedding in self.embeddings.parameters():
            nn.init.normal_(embedding, std=0.1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, len(LANGUAGES))

    def forward(self, name: torch.Tensor) -> torch.Tensor:
        """Logits. N-grams begin within the name; zeros in them say where it ends, and more zeros change nothing."""
        length = name.shape[1]
        begins = (name > 0).unsqueeze(2).to(self.head.weight.dtype)
        padded = nn.functional.pad(name, (0, len(self.embeddings)))
        bucket = torch.zeros_like(name)
        embedded = []
        for place, embedding in enumerate(self.embeddings):
            bucket = (bucket * 257 + padded[:, place : place + length]) % self.buckets_count
            embedded.append(embedding(bucket))
        total = (torch.stack(embedded).sum(0) * begins).sum(1)
        logits: torch.Tensor = self.head(self.dropout(total / begins.sum(1).clamp(min=1).sqrt()))
        return logits


def encode(names: Sequence[str], length: int = LENGTH) -> torch.Tensor:
    """UTF-8 bytes ``(len(names), length)``, int64, filled up with zeros."""
    rows = [list(_cut(name, length)) for name in names]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def _cut(name: str, length: int = LENGTH) -> bytes:
    """What the model sees of a name."""
    return name.encode()[:length]


def named() -> dict[str, list[tuple[str, int]]]:
    """Names with the number of their language, by split.

    Raises:
        UserError: babel is missing.
    """
    try:
        from babel import Locale
    except ModuleNotFoundError as error:
        raise UserError(f"the recipe words needs babel: {hints.install('words')}") from error
    terms: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for number, language in enumerate(LANGUAGES):
        locale = Locale.parse(language)
        for kind in _KINDS:
            for code, name in getattr(locale, kind).items():
                terms.setdefault((kind, code), []).append((name, number))
    ordered = [terms[term] for term in sorted(terms)]
    shuffled = torch.randperm(len(ordered), generator=torch.Generator().manual_seed(0)).tolist()
    train_count, validation_count = (int(share * len(ordered)) for share in (_TRAIN_SHARE, _VALIDATION_SHARE))
    bounds = {"train": train_count, "validation": train_count + validation_count, "test": len(ordered)}
    splits: dict[str, list[tuple[str, int]]] = {}
    first, seen = 0, set[bytes]()
    for split, end in bounds.items():
        rows = [row for term in shuffled[first:end] for row in ordered[term]]
        splits[split] = [(name, number) for name, number in rows if _cut(name) not in seen]
        seen |= {_cut(name) for name, _ in rows}
        first = end
    return splits


def data() -> Data:
    """About 37,000 names to train, 4,500 to choose the epoch, 4,500 to test."""
    splits = {
        split: Split(
            inputs={"name": encode([name for name, _ in rows])},
            targets=torch.tensor([number for _, number in rows]),
        )
        for split, rows in named().items()
    }
    return Data(train=splits["train"], validation=splits["validation"], test=splits["test"])


def naive_bayes(train: Split, test: Split, values_count: int = 256) -> float:
    """The baseline: accuracy of naive Bayes over the values of the first input, each for itself, zeros left out; one of
    each is added, and all classes are alike likely.
    """
    classes_count = int(train.targets.max()) + 1
    counts = torch.zeros(classes_count, values_count).index_add_(0, train.targets, _counts(train, values_count))
    counts[:, 1:] += 1
    scores = _counts(test, values_count)[:, 1:] @ (counts[:, 1:] / counts[:, 1:].sum(1, keepdim=True)).log().T
    return float((scores.argmax(1) == test.targets).float().mean())


def _counts(split: Split, values_count: int) -> torch.Tensor:
    values = next(iter(split.inputs.values()))
    return torch.zeros(len(values), values_count).scatter_add_(1, values, torch.ones_like(values, dtype=torch.float32))


def accuracy(logits: torch.Tensor, languages: torch.Tensor) -> float:
    """Share of names whose largest logit is their language's."""
    return float((logits.argmax(1) == languages).float().mean())


def recipe() -> Recipe:
    """AdamW with a cosine schedule, the best epoch by validation loss; and well above ``naive_bayes``."""
    return Recipe(
        name="words",
        model=NGrams,
        signature=Signature(
            inputs=(TensorSpec("name", "int64", ("batch", "length"), low=0, high=255, draw="uniform"),),
            output_names=("logits",),
            ranges={"batch": SizeRange(max=4096), "length": SizeRange(max=256, example=LENGTH)},
        ),
        data=data,
        data_packages=("babel",),
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
        train=TrainSpec(
            epochs=3, batch_rows=256, optimizer="adamw", lr=1e-2, schedule="cosine", keep="best", print_every_epochs=1
        ),
        limits=Limits(min_metrics={"test_accuracy": 0.65}),
    )
