"""Models that answer for inputs alone whose values belong together, and the functions that draw such inputs."""

from __future__ import annotations

import torch
from torch import nn

from export.build import Source
from export.signature import Signature, SizeRange, TensorSpec


def offsets(sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    """Where bags begin: the first at 0, none before the one before it."""
    places = torch.randint(0, sizes["total"] + 1, (sizes["bags"],), generator=generator).sort().values
    places[:1] = 0
    return places


def covariances(sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    """Positive definite matrices."""
    factor = torch.randn(sizes["batch"], 4, 4, generator=generator)
    return factor @ factor.mT + 4 * torch.eye(4)


class Bags(nn.Module):
    """Means of bags of a call's ids; the operator itself refuses offsets that do not begin with 0."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(10, 3)

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        means: torch.Tensor = self.table(ids, offsets)
        return torch.tanh(means)


class Whitened(nn.Module):
    """Has no answer for matrices that are not positive definite."""

    def forward(self, x: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
        factor = torch.linalg.cholesky(covariance)
        return torch.tanh(torch.linalg.solve_triangular(factor, x.unsqueeze(2), upper=False).squeeze(2))


BAGS = Signature(
    inputs=(
        TensorSpec("ids", "int64", ("total",), high=9),
        TensorSpec("offsets", "int64", ("bags",), high="total", draw=offsets),
    ),
    output_names=("means",),
    ranges={"total": SizeRange(max=300), "bags": SizeRange(max=20)},
)
WHITENED = Signature(
    inputs=(
        TensorSpec("x", "float32", ("batch", 4)),
        TensorSpec("covariance", "float32", ("batch", 4, 4), draw=covariances),
    ),
    output_names=("white",),
    ranges={"batch": SizeRange(max=300)},
)


def model(name: str) -> nn.Module:
    """Always with the same weights."""
    torch.manual_seed(0)
    kind: type[nn.Module] = {"Bags": Bags, "Whitened": Whitened}[name]
    return kind().eval()


def source(name: str) -> Source:
    """The model, as a worker takes it."""
    return Source(function="tests.bench.drawn.models:model", argument=name)
