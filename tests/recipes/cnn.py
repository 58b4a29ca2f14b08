"""The small CNN that other tools were measured on: two convolutions, a pool and a linear layer, on 8x8 digits."""

from __future__ import annotations

import torch
from torch import nn

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.data import Data
from pipeline.recipe import Recipe, TrainSpec
from pipeline.recipes import digits


class SmallCnn(nn.Module):
    """``(batch, 1, 8, 8)`` to logits ``(batch, 10)``; 9,930 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 4 * 4, 10),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.layers(image)
        return logits


def data() -> Data:
    """The recipe digits' own."""
    return digits.data()


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose largest logit is their digit's."""
    return float((logits.argmax(1) == labels).float().mean())


def recipe() -> Recipe:
    """Ten epochs: enough for a working model."""
    return Recipe(
        name="cnn",
        model=SmallCnn,
        signature=Signature(
            inputs=(TensorSpec("image", "float32", ("batch", 1, 8, 8), low=0.0, high=1.0),),
            output_names=("logits",),
            ranges={"batch": SizeRange(max=4096)},
        ),
        data=data,
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
        train=TrainSpec(epochs=10, batch_rows=64, lr=3e-3, schedule="cosine"),
    )
