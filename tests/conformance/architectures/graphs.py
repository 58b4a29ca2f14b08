"""Graph networks of ``torch_geometric``, with random weights: many graphs by a dense adjacency, one by its edges."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch_geometric import nn as graph_nn

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS = ("torch_geometric",)


class _Dense(nn.Module):
    """Two layers over a dense adjacency, and the mean over the nodes."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.second, self.head = layer(8, 16), layer(16, 16), nn.Linear(16, 3)

    def forward(self, nodes: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        hidden = self.first(nodes, adjacency).relu()
        return self.head(self.second(hidden, adjacency).relu().mean(1))


class _DenseGIN(graph_nn.DenseGINConv):  # type: ignore[misc]
    """A graph isomorphism layer with a small network inside."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden)))


def _of_batches(name: str, layer: type[nn.Module]) -> Recipe:
    return Recipe(
        name=name,
        model=lambda: _Dense(layer),
        signature=Signature(
            inputs=(
                TensorSpec("nodes", "float32", ("batch", "nodes", 8)),
                TensorSpec("adjacency", "float32", ("batch", "nodes", "nodes"), low=0.0, high=1.0),
            ),
            ranges={"batch": SizeRange(max=16), "nodes": SizeRange(min=2, max=16)},
        ),
    )


def dense_gcn() -> Recipe:
    """GCN over dense adjacencies."""
    return _of_batches("dense_gcn", graph_nn.DenseGCNConv)


def dense_sage() -> Recipe:
    """GraphSAGE over dense adjacencies."""
    return _of_batches("dense_sage", graph_nn.DenseSAGEConv)


def dense_gin() -> Recipe:
    """GIN over dense adjacencies."""
    return _of_batches("dense_gin", _DenseGIN)


def dense_gat() -> Recipe:
    """GAT over dense adjacencies."""
    return _of_batches("dense_gat", graph_nn.DenseGATConv)


class _Edges(nn.Module):
    """Two layers over a list of edges: rows are nodes of one graph."""

    def __init__(self, first: Callable[[], nn.Module], second: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = first(), second()

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(nodes, edges).relu(), edges)


def _of_edges(name: str, first: Callable[[], nn.Module], second: Callable[[], nn.Module]) -> Recipe:
    """Any number of nodes, and of edges among them."""
    return Recipe(
        name=name,
        model=lambda: _Edges(first, second),
        signature=Signature(
            inputs=(
                TensorSpec("nodes", "float32", ("nodes", 8)),
                TensorSpec("edges", "int64", (2, "edges"), high="nodes - 1"),
            ),
            ranges={"nodes": SizeRange(min=2, max=64), "edges": SizeRange(min=2, max=60)},
        ),
    )


def gcn() -> Recipe:
    """GCN over edges."""
    return _of_edges("gcn", lambda: graph_nn.GCNConv(8, 16), lambda: graph_nn.GCNConv(16, 4))


def gat() -> Recipe:
    """GAT over edges, two heads."""
    return _of_edges("gat", lambda: graph_nn.GATConv(8, 8, heads=2), lambda: graph_nn.GATConv(16, 4))


def gin() -> Recipe:
    """GIN over edges."""
    return _of_edges(
        "gin",
        lambda: graph_nn.GINConv(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))),
        lambda: graph_nn.GINConv(nn.Linear(16, 4)),
    )


def graph_transformer() -> Recipe:
    """Attention along edges, as transformers have it."""
    return _of_edges(
        "graph_transformer",
        lambda: graph_nn.TransformerConv(8, 8, heads=2),
        lambda: graph_nn.TransformerConv(16, 4),
    )
