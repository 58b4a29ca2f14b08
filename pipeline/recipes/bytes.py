"""The next byte of Python's own standard library: a byte-level GPT, causal, any length up to 256.

The text is the interpreter's own source (PSF-2.0): ``*.py`` beside ``os.py``, some five million bytes, another text
for another version of Python. Whole files are held out, about one in ten to validate and one in ten to test, chosen by
a digest of their names. ``bigram_bits`` is the baseline to beat; ``compression`` is what an arithmetic coder would make
of the text by the model's probabilities.

``bytes:large`` is the same with 25 million parameters, for a GPU: --train.precision bfloat16 --train.epochs 30.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from bench.parity.spec import ParitySpec
from bench.timing.spec import BenchSpec
from bench.verdict.limits import Limits
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.data import Data, Split
from pipeline.recipe import Recipe, TrainSpec

_BYTES = 256
_LONGEST = 256
_LENGTH = 128
"""Bytes per row of the data; the model itself takes any length up to ``_LONGEST``."""
_HELD_OUT_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the model is."""

    layers_count: int = 2
    width: int = 96
    heads_count: int = 4


class Block(nn.Module):
    """Causal self-attention and an MLP, each after a norm and added to what comes in (pre-norm, as GPT-2)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads_count = size.heads_count
        self.attention_norm, self.mlp_norm = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.queries_keys_values = nn.Linear(size.width, 3 * size.width)
        self.mixed = nn.Linear(size.width, size.width)
        self.mlp = nn.Sequential(
            nn.Linear(size.width, 4 * size.width), nn.GELU(), nn.Linear(4 * size.width, size.width)
        )

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """``(batch, length, width)`` to the same."""
        heads = self.queries_keys_values(self.attention_norm(state)).unflatten(2, (3, self.heads_count, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        state = state + self.mixed(attended.transpose(1, 2).flatten(2))
        added: torch.Tensor = self.mlp(self.mlp_norm(state))
        return state + added


class ByteGPT(nn.Module):
    """Bytes ``(batch, length)`` to logits of the byte after each, ``(batch, length, 256)``."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.bytes = nn.Embedding(_BYTES, size.width)
        self.places = nn.Embedding(_LONGEST, size.width)
        for embedding in (self.bytes, self.places):
            nn.init.normal_(embedding.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers_count)))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Logits; the embeddings of bytes are also the last layer's weights."""
        places = self.places(torch.arange(text.shape[1], device=text.device))
        return nn.functional.linear(self.norm(self.blocks(self.bytes(text) + places)), self.bytes.weight)


class Windows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Rows of a text ``(bytes,)``, one after the other: each so many bytes, and those one further on."""

    def __init__(self, text: torch.Tensor) -> None:
        self.text = text

    def __len__(self) -> int:
        return (len(self.text) - 1) // _LENGTH

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        window = self.text[row * _LENGTH : (row + 1) * _LENGTH + 1].long()
        return window[:-1], window[1:]


def sources() -> tuple[Path, ...]:
    """The files that are read."""
    return tuple(sorted(Path(os.__file__).parent.glob("*.py")))


def texts() -> dict[str, torch.Tensor]:
    """The bytes of the files of each split, uint8 ``(bytes,)``: which one a file is in, its name decides."""
    parts: dict[str, list[bytes]] = {"train": [], "validation": [], "test": []}
    for path in sources():
        split = {0: "validation", 1: "test"}.get(zlib.crc32(path.name.encode()) % 10, "train")
        parts[split].append(path.read_bytes())
    return {split: torch.from_numpy(np.frombuffer(b"".join(part), np.uint8).copy()) for split, part in parts.items()}


def data() -> Data:
    """Windows of 128 bytes: all to train, 512 at even distances to choose the epoch, 512 to test."""
    text = texts()
    return Data(train=Windows(text["train"]), validation=_some(text["validation"]), test=_some(text["test"]))


def _some(text: torch.Tensor) -> Split:
    windows = Windows(text)
    rows = [windows[len(windows) * number // _HELD_OUT_ROWS] for number in range(_HELD_OUT_ROWS)]
    inputs, targets = (torch.stack(column) for column in zip(*rows, strict=True))
    return Split(inputs={"text": inputs}, targets=targets)


def bigram_bits(train: torch.Tensor, test: Split) -> float:
    """The baseline: bits per byte by how often a byte came after the one before it, with one of each added."""
    pairs = train[:-1].long() * _BYTES + train[1:].long()
    counts = torch.bincount(pairs, minlength=_BYTES**2).reshape(_BYTES, _BYTES) + 1
    shares = counts / counts.sum(1, keepdim=True)
    return float(-shares[test.inputs["text"], test.targets].log2().mean())


def loss(logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over all places, in nats per byte."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())


def bits_per_byte(logits: torch.Tensor, following: torch.Tensor) -> float:
    """Cross-entropy in bits per byte."""
    return float(loss(logits, following) / np.log(2))


def compression(logits: torch.Tensor, following: torch.Tensor) -> float:
    """How many times smaller an arithmetic coder would make the text."""
    return 8 / bits_per_byte(logits, following)


def recipe(size: Size = Size(), name: str = "bytes") -> Recipe:
    """AdamW with warm-up and a cosine schedule, two epochs of 64 rows a step."""
    return Recipe(
        name=name,
        model=lambda: ByteGPT(size),
        signature=Signature(
            inputs=(TensorSpec("text", "int64", ("batch", "length"), low=0, high=_BYTES - 1),),
            output_names=("logits",),
            ranges={"batch": SizeRange(max=256), "length": SizeRange(max=_LONGEST, example=_LENGTH)},
        ),
        data=data,
        loss=loss,
        metrics={"compression": compression, "bits_per_byte": bits_per_byte},
        files=sources(),
        train=TrainSpec(
            epochs=2, batch_rows=64, optimizer="adamw", lr=4e-3, weight_decay=0.1, decay="matrices", clip_norm=1.0,
            schedule="cosine", warmup_steps=50, keep="best", print_every_epochs=1,
        ),
        parity=ParitySpec(rows_count=64, batch_rows=(1, 2, 7, 32)),
        bench=BenchSpec(batch_rows=(1, 32)),
        limits=Limits(min_metrics={"test_compression": 2.8}),
    )  # fmt: skip


def large() -> Recipe:
    """Eight layers of width 512."""
    return recipe(Size(layers_count=8, width=512, heads_count=8), "bytes-large")
