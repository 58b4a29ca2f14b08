"""A recipe to begin with: is a point inside the ring? Put your own data and model in its place."""

import torch
from torch import nn

from torchstone import Data, Limits, Recipe, Signature, SizeRange, Split, TensorSpec, TrainSpec


class Net(nn.Module):
    """Points to one score for each of two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """``(batch, 2)`` points to ``(batch, 2)`` scores."""
        scores: torch.Tensor = self.layers(points)
        return scores


def data() -> Data:
    """Inputs by the names of forward's parameters, and what is to be learned; the same at every call."""
    points = 2 * torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) - 1
    inside = (points.norm(dim=1) < 0.8).long()
    return Data(
        train=Split(inputs={"points": points[:800]}, targets=inside[:800]),
        test=Split(inputs={"points": points[800:]}, targets=inside[800:]),
    )


def accuracy(scores: torch.Tensor, inside: torch.Tensor) -> float:
    """The share of points whose class has the highest score."""
    return float((scores.argmax(1) == inside).float().mean())


def recipe() -> Recipe:
    """What `torchstone run` looks for; `torchstone run FILE --help` lists all that can be set here."""
    return Recipe(
        name="my_recipe",
        model=Net,
        signature=Signature(
            inputs=(TensorSpec("points", "float32", ("batch", 2)),),  # a size with a name moves, within its range
            output_names=("scores",),
            ranges={"batch": SizeRange(min=1, max=1024)},
        ),
        data=data,  # without data, loss and train, Net() must come with its weights
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
        train=TrainSpec(epochs=40, batch_rows=50, optimizer="adam", lr=0.01),
        limits=Limits(min_metrics={"test_accuracy": 0.8}),  # what does not keep to it does not ship
    )
