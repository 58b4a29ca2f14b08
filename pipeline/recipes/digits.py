"""Handwritten digits, 8x8, real data from scikit-learn: a small CNN with batch norm and dropout, two outputs.

Needs the extra: pip install 'torchstone[digits]'.
"""

from __future__ import annotations

import torch
from torch import nn

from bench.verdict.limits import Limits
from export import hints
from export.errors import UserError
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.data import Data, Split
from pipeline.recipe import Recipe, TrainSpec

_TRAIN_ROWS, _VALIDATION_ROWS = 1257, 270


class DigitsNet(nn.Module):
    """``(batch, 1, 8, 8)`` images with values in [0, 1], to logits and probabilities ``(batch, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 2 * 2, 10))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits, and their softmax."""
        logits = self.head(self.features(image))
        return logits, torch.softmax(logits, dim=1)


def data() -> Data:
    """1,797 images in a fixed random order: 1,257 to train, 270 to choose the epoch, 270 to test."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise UserError(f"the recipe digits needs scikit-learn: {hints.install('digits')}") from error
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, validation, test = order.split([_TRAIN_ROWS, _VALIDATION_ROWS, len(order) - _TRAIN_ROWS - _VALIDATION_ROWS])
    splits = [Split(inputs={"image": images[rows]}, targets=labels[rows]) for rows in (train, validation, test)]
    return Data(train=splits[0], validation=splits[1], test=splits[2])


def loss(outputs: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the logits."""
    return nn.functional.cross_entropy(outputs[0], labels)


def accuracy(outputs: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor) -> float:
    """Share of images whose largest logit is their digit's."""
    return float((outputs[0].argmax(1) == labels).float().mean())


def recipe() -> Recipe:
    """Adam with a cosine schedule, 30 epochs of 64 rows, the best epoch by validation loss."""
    return Recipe(
        name="digits",
        model=DigitsNet,
        signature=Signature(
            inputs=(TensorSpec("image", "float32", ("batch", 1, 8, 8), low=0.0, high=1.0),),
            output_names=("logits", "probabilities"),
            ranges={"batch": SizeRange(max=4096)},
        ),
        data=data,
        data_packages=("scikit-learn",),
        loss=loss,
        metrics={"accuracy": accuracy},
        train=TrainSpec(epochs=30, batch_rows=64, lr=3e-3, schedule="cosine", keep="best"),
        limits=Limits(min_metrics={"test_accuracy": 0.985}),
    )
