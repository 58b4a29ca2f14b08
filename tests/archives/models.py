"""Models whose saved programs have what real ones have, and the one that is forged."""

from __future__ import annotations

import torch
from torch import nn


class Small(nn.Module):
    """A weight, a buffer, a constant, a size that is not fixed, an input that is a text, and one by key."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(2))
        self.offset = torch.arange(2.0)

    def forward(self, x: torch.Tensor, how: str, more: dict[str, torch.Tensor]) -> torch.Tensor:
        y = self.fc(x) * self.scale + more["key"]
        return y + self.offset if how == "add" else y


class Many(nn.Module):
    """Shared, strided, empty and scalar tensors of several dtypes; names that are keys of the file too."""

    expr_str: torch.Tensor
    target: torch.Tensor
    empty: torch.Tensor
    metadata: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("expr_str", torch.arange(32.0).reshape(4, 8)[:, ::2].t())
        self.register_buffer("target", torch.tensor(3, dtype=torch.int8))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.register_buffer("metadata", torch.ones(4, dtype=torch.bfloat16), persistent=False)
        self.in_spec = torch.full((4,), 1 + 2j)
        self.blocks = nn.ModuleDict({"a-b": nn.Linear(4, 4), "größe 2": nn.BatchNorm1d(4)})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        y = self.second(self.first(x)) @ self.expr_str + self.target
        z = torch.cat([y * self.metadata.float(), self.empty])
        for block in self.blocks.values():
            z = block(z)
        return {"z": z, "parts": [y, (z * self.in_spec).real]}


class Sizes(nn.Module):
    """Sizes computed from sizes, a guard, branches, and modes that are entered and left."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = x.shape[0] * 2 + y.shape[1] // 2
        torch._check(x.shape[0] * 2 != y.shape[1])
        chosen = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
        with torch.no_grad(), torch.autocast("cpu"):
            product = x @ x.T
        larger = nn.functional.interpolate(y[None, None], scale_factor=1.7)
        found = x.nonzero()
        return torch.zeros(max(count, 3), x.shape[1]), x.sum() * count**0.5, chosen, product, larger, found


@torch.library.custom_op("torchstone_tests::doubled", mutates_args=())
def _doubled(x: torch.Tensor, how: str) -> torch.Tensor:
    return x + x


@_doubled.register_fake
def _(x: torch.Tensor, how: str) -> torch.Tensor:
    return torch.empty_like(x)


class Custom(nn.Module):
    """An operator that this process registered, with a text as an argument."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.torchstone_tests.doubled(x, "x=__import__('os')")


class LikePickles(nn.Module):
    """Weights that begin with the bytes of a pickle, or of an archive: one in 65,536 does; MiniLM has one."""

    a: torch.Tensor
    b: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, first in (("a", b"\x80\x02"), ("b", b"PK\x03\x04")):
            self.register_buffer(name, torch.frombuffer(bytearray(first + bytes(16 - len(first))), dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.a + self.b


class Vmap(nn.Module):
    """Functions that are neither operators nor symbolic, and a number that JSON does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda row: row * row.sum())(x).clamp(max=float("inf"))


_BATCH, _WIDTH = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("width", min=4, max=64)
REAL: dict[str, tuple[nn.Module, tuple[torch.Tensor, ...], tuple[dict[int, torch.export.Dim], ...]]] = {
    "many tensors": (Many(), (torch.randn(3, 4),), ({0: _BATCH},)),
    "sizes": (Sizes(), (torch.randn(3, 4), torch.randn(4, 8)), ({0: _BATCH}, {1: _WIDTH})),
    "a custom operator": (Custom(), (torch.randn(3, 4),), ({0: _BATCH},)),
    "weights like pickles": (LikePickles(), (torch.randn(3, 4),), ({0: _BATCH},)),
    "vmap, and infinity": (Vmap(), (torch.randn(3, 4),), ({0: _BATCH},)),
}
