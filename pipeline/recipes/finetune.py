"""What part of Python's library a docstring is about: the pretrained sentence model with a new head, fine-tuned.

The model of the recipe ``sentence`` (all-MiniLM-L6-v2, Apache-2.0) keeps its weights but those of the last of its six
layers. The data is the interpreter's own docstrings (PSF-2.0): ten packages that every Python has, 25 rows of each to
train, no two of which begin alike; another data set for another version of Python. A docstring may name its package:
what single tokens tell is the baseline to beat, ``naive_bayes`` of pipeline/recipes/words.py.

Needs the extra: pip install 'torchstone[finetune]'.
"""

from __future__ import annotations

import ast
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from bench.parity.spec import ParitySpec
from bench.timing.spec import BenchSpec
from bench.verdict.limits import Limits
from export.signature import Signature, SizeRange
from pipeline.data import Data, Split
from pipeline.recipe import Recipe, TrainSpec
from pipeline.recipes.sentence import INPUTS, LONGEST, Embedder, model_files, tokenize

PACKAGES = (
    "_pydecimal", "asyncio", "email", "http", "importlib", "logging", "multiprocessing", "tarfile+zipfile", "unittest",
    "xml",
)  # fmt: skip
"""In the order of the logits; what systems put into packages of their own (tkinter, idlelib) is not among them."""
LENGTH = 32
"""Tokens per docstring in the data, longer ones are cut."""
_FEWEST_CHARACTERS = 40
_ROWS = {"test": 60, "validation": 15, "train": 25}
"""Rows of each package: few to train, which is what pretrained weights are for."""
_EMBEDDING = 384
_SCALE = 10.0
"""What an embedding of length one is multiplied by before the head."""


class Classifier(nn.Module):
    """Token ids and mask ``(batch, length)`` to logits ``(batch, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder = Embedder().requires_grad_(False)
        self.embedder.encoder.encoder.layer[-1].requires_grad_(True)
        self.head = nn.Linear(_EMBEDDING, len(PACKAGES))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(_SCALE * self.embedder(input_ids, attention_mask))
        return logits


def docstrings(packages: str) -> list[str]:
    """The docstrings of functions and classes of one package, or of several (``tarfile+zipfile``), each on one line,
    shuffled by a digest.

    No two begin with the same forty characters: some differ in one word far behind.
    """
    root = Path(os.__file__).parent
    paths = [
        path
        for package in packages.split("+")
        for path in sorted((root / package).rglob("*.py")) or [root / f"{package}.py"]
    ]
    texts = {_beginning(text): text for path in paths if "test" not in path.parts for text in _of_file(path)}
    return sorted(texts.values(), key=lambda text: zlib.crc32(text.encode()))


def _beginning(text: str) -> str:
    return text[:_FEWEST_CHARACTERS].lower()


def _of_file(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = " ".join((ast.get_docstring(node) or "").split())
            if len(text) >= _FEWEST_CHARACTERS:
                yield text


def data() -> Data:
    """25 docstrings of each package to train, 15 to choose the epoch, 60 to test."""
    rows: dict[str, list[tuple[str, int]]] = {split: [] for split in _ROWS}
    seen = set[str]()
    for label, package in enumerate(PACKAGES):
        texts = iter([text for text in docstrings(package) if _beginning(text) not in seen])
        for split, count in _ROWS.items():
            rows[split] += [(next(texts), label) for _ in range(count)]
        seen.update(_beginning(text) for split in rows.values() for text, _ in split)
    splits = {
        split: Split(
            inputs=tokenize([text for text, _ in pairs], LENGTH), targets=torch.tensor([label for _, label in pairs])
        )
        for split, pairs in rows.items()
    }
    return Data(train=splits["train"], validation=splits["validation"], test=splits["test"])


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of docstrings whose largest logit is their package's."""
    return float((logits.argmax(1) == labels).float().mean())


def recipe() -> Recipe:
    """AdamW, warm-up and a cosine schedule, the best epoch by validation loss."""
    return Recipe(
        name="finetune",
        model=Classifier,
        signature=Signature(
            inputs=INPUTS,
            output_names=("logits",),
            ranges={"batch": SizeRange(max=256), "length": SizeRange(min=2, max=LONGEST, example=LENGTH)},
        ),
        data=data,
        data_packages=("python",),
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
        licence="Apache-2.0",
        files=model_files(),
        train=TrainSpec(
            epochs=8, batch_rows=32, optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="cosine", warmup_steps=10,
            clip_norm=1.0, keep="best", print_every_epochs=1,
        ),
        parity=ParitySpec(rows_count=64),
        bench=BenchSpec(batch_rows=(1, 32), callers_s=0.5),
        limits=Limits(min_metrics={"test_accuracy": 0.7}),
    )  # fmt: skip
