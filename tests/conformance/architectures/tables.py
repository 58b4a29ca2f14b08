"""Networks of ``torch.nn`` over tables, sets, ids and several inputs at once."""

from __future__ import annotations

import torch
from torch import nn

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS: tuple[str, ...] = ()
BATCH = SizeRange(max=64)


def embedding_bag() -> Recipe:
    """The mean of the embeddings of a row's ids, as many as there are."""
    return Recipe(
        name="embedding_bag",
        model=lambda: nn.Sequential(nn.EmbeddingBag(100, 16, mode="mean"), nn.Linear(16, 4)),
        signature=Signature(
            inputs=(TensorSpec("ids", "int64", ("batch", "items"), high=99),),
            ranges={"batch": BATCH, "items": SizeRange(min=2, max=20)},
        ),
    )


def wide_and_deep() -> Recipe:
    """Categories and measurements of one customer: two inputs of two dtypes, by keyword, results by name."""
    return Recipe(
        name="wide_and_deep",
        model=_WideAndDeep,
        signature=Signature(
            inputs=(
                TensorSpec("categories", "int64", ("batch", 3), high=49, keyword=True),
                TensorSpec("measurements", "float32", ("batch", 6), keyword=True),
            ),
            ranges={"batch": BATCH},
        ),
    )


class _WideAndDeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(50, 8) for _ in range(3)])
        self.deep = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 16))
        self.wide = nn.Linear(6, 16)
        self.rating, self.clicks = nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, categories: torch.Tensor, measurements: torch.Tensor) -> dict[str, torch.Tensor]:
        known = [table(categories[:, column]) for column, table in enumerate(self.tables)]
        both = self.deep(torch.cat([*known, measurements], 1)) + self.wide(measurements)
        return {"rating": self.rating(both).squeeze(1), "clicks": self.clicks(both).log_softmax(1)}


def factorisation_machine() -> Recipe:
    """All pairs of features, by the square of the sum less the sum of the squares."""
    return Recipe(
        name="factorisation_machine",
        model=_FactorisationMachine,
        signature=Signature(inputs=(TensorSpec("ids", "int64", ("batch", 5), high=199),), ranges={"batch": BATCH}),
    )


class _FactorisationMachine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.factors = nn.Embedding(200, 1), nn.Embedding(200, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        factors = self.factors(ids)
        pairs = (factors.sum(1) ** 2 - (factors**2).sum(1)).sum(1)
        return torch.sigmoid(self.weight(ids).sum((1, 2)) + 0.5 * pairs)


def two_towers() -> Recipe:
    """Two inputs, each through a tower; how alike they are by cosine, and by a bilinear form."""
    return Recipe(
        name="two_towers",
        model=_TwoTowers,
        signature=Signature(
            inputs=(TensorSpec("user", "float32", ("batch", 12)), TensorSpec("item", "float32", ("batch", 20))),
            ranges={"batch": BATCH},
        ),
    )


class _TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Sequential(nn.Linear(12, 32), nn.Mish(), nn.Linear(32, 8))
        self.item = nn.Sequential(nn.Linear(20, 32), nn.Softplus(), nn.Linear(32, 8))
        self.form = nn.Bilinear(8, 8, 1)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = self.user(user), self.item(item)
        return nn.functional.cosine_similarity(left, right), self.form(left, right)


def point_set() -> Recipe:
    """Points in any order and number: a network for each, the largest of each feature."""
    return Recipe(
        name="point_set",
        model=_PointSet,
        signature=Signature(
            inputs=(TensorSpec("points", "float32", ("batch", "points", 3)),),
            ranges={"batch": SizeRange(max=32), "points": SizeRange(min=2, max=64)},
        ),
    )


class _PointSet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32))
        self.all = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        features = self.each(points)
        return self.all(torch.cat((features.amax(1), features.mean(1)), 1))


def mixture_of_experts() -> Recipe:
    """Every expert answers, the two that the gate likes best are taken."""
    return Recipe(
        name="mixture_of_experts",
        model=_MixtureOfExperts,
        signature=Signature(inputs=(TensorSpec("x", "float32", ("batch", 16)),), ranges={"batch": BATCH}),
    )


class _MixtureOfExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores, chosen = self.gate(x).softmax(1).topk(2, dim=1)
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        picked = answers.gather(1, chosen.unsqueeze(2).expand(-1, -1, 8))
        return (picked * scores.unsqueeze(2)).sum(1)


def nearest_code() -> Recipe:
    """The nearest of learned codes, with its number: a vector-quantised layer."""
    return Recipe(
        name="nearest_code",
        model=_NearestCode,
        signature=Signature(inputs=(TensorSpec("x", "float32", ("batch", 12)),), ranges={"batch": BATCH}),
    )


class _NearestCode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(12, 4), nn.Linear(4, 12)
        self.codes = nn.Parameter(torch.randn(16, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        distances = (self.encoder(x).unsqueeze(1) - self.codes).square().sum(2)
        nearest = distances.argmin(1)
        return self.decoder(self.codes[nearest]), nearest
