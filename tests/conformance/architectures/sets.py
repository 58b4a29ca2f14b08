"""Sets of points: what is taken of neighbours, of distances and of the largest, whatever their number."""

from __future__ import annotations

import torch
from torch import nn

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS: tuple[str, ...] = ()

_POINTS = Signature(
    inputs=(TensorSpec("points", "float32", ("batch", "points", 3)),),
    ranges={"batch": SizeRange(max=8), "points": SizeRange(min=8, max=64)},
)


class _PointNet(nn.Module):
    """Features of every point by themselves, and the largest of each (Qi et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(3, 32, 1), nn.ReLU(), nn.Conv1d(32, 64, 1), nn.AdaptiveMaxPool1d(1))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.features(points.transpose(1, 2)))
        return result


class _EdgeConv(nn.Module):
    """Features of each point and its nearest neighbours, and the largest of them (Wang et al., 2019)."""

    NEIGHBOURS_COUNT = 4

    def __init__(self) -> None:
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(points, points).topk(self.NEIGHBOURS_COUNT, largest=False).indices
        rows = torch.arange(points.shape[0], device=points.device).reshape(-1, 1, 1)
        own = points.unsqueeze(2).expand(-1, -1, self.NEIGHBOURS_COUNT, -1)
        edges = torch.cat([own, points[rows, nearest] - own], -1)
        result: torch.Tensor = self.head(self.edge(edges).amax(2).amax(1))
        return result


class _RadialBasis(nn.Module):
    """Distances to centres that were learnt, through bells (Broomhead and Lowe, 1988)."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(20, 6))
        self.head = nn.Linear(20, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(torch.exp(-0.1 * torch.cdist(x, self.centres).square()))
        return result


class _OneHead(nn.Module):
    """Attention without heads, over a set."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Linear(3, 48)
        self.head = nn.Linear(16, 5)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        query, key, value = self.parts(points).chunk(3, -1)
        result: torch.Tensor = self.head(nn.functional.scaled_dot_product_attention(query, key, value).mean(1))
        return result


def pointnet() -> Recipe:
    """The largest of each feature."""
    return Recipe(name="pointnet", model=_PointNet, signature=_POINTS)


def edge_conv() -> Recipe:
    """A graph of nearest neighbours, made anew of each set."""
    return Recipe(name="edge_conv", model=_EdgeConv, signature=_POINTS)


def radial_basis() -> Recipe:
    """A radial basis network over rows."""
    signature = Signature(inputs=(TensorSpec("x", "float32", ("batch", 6)),), ranges={"batch": SizeRange(max=64)})
    return Recipe(name="radial_basis", model=_RadialBasis, signature=signature)


def one_head() -> Recipe:
    """Attention of three dimensions."""
    return Recipe(name="one_head", model=_OneHead, signature=_POINTS)
