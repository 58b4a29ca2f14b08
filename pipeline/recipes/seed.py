"""The classic first network: 100 random points, is the sum of both coordinates positive? 17 parameters.

The data, the network and the training loop are those of the document that this project grew from, to the letter: with
the same torch seed the weights are bit for bit those of its plain loop.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.data import Data, Split
from pipeline.recipe import Recipe, TrainSpec


class SimpleNN(nn.Module):
    """``(batch, 2)`` points to ``(batch, 1)`` probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 4)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Points to the probability that their coordinates sum to more than zero."""
        out = self.fc1(x)
        out = self.relu(out)
        out = self.fc2(out)
        return torch.sigmoid(out)


def data() -> Data:
    """100 points, all of them for training: the accuracy below is training accuracy."""
    np.random.seed(42)
    points = np.random.randn(100, 2).astype(np.float32)
    labels = (points[:, 0] + points[:, 1] > 0).astype(np.int32)
    return Data(train=Split(inputs={"x": torch.from_numpy(points)}, targets=torch.from_numpy(labels)))


def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of probabilities ``(batch, 1)`` against labels ``(batch,)``."""
    return nn.functional.binary_cross_entropy(outputs.squeeze(), labels.float())


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of points on the right side of 0.5."""
    predicted = (outputs > 0.5).float()
    return (predicted.squeeze() == labels.float()).sum().item() / len(labels)


def recipe() -> Recipe:
    """SGD with learning rate 0.1, 50 epochs, all rows at once."""
    return Recipe(
        name="seed",
        model=SimpleNN,
        signature=Signature(
            inputs=(TensorSpec("x", "float32", ("batch", 2)),),
            output_names=("probability",),
            ranges={"batch": SizeRange(max=65536)},
        ),
        data=data,
        loss=loss,
        metrics={"accuracy": accuracy},
        train=TrainSpec(epochs=50, optimizer="sgd", lr=0.1),
    )
