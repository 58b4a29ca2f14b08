"""Distances of all pairs of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from export.open_layers import has_many_rows


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Any:
    """Distances of all pairs of rows: by products where PyTorch takes these, else, and more exactly, by differences."""
    if p == 2 and (compute_mode == 1 or (compute_mode in {None, 0} and has_many_rows(x1, x2))):
        return _by_products(x1, x2)
    apart = (x1.unsqueeze(-2) - x2.unsqueeze(-3)).abs()
    if p == 0:
        return (apart != 0).to(x1.dtype).sum(-1)
    if p == 1:
        return apart.sum(-1)
    if p == 2:
        return (apart * apart).sum(-1).sqrt()
    return NotImplemented if apart.shape[-1] == 0 else _by_powers(apart, p)


def _by_powers(apart: Tensor, p: float) -> Tensor:
    largest = apart.amax(-1, keepdim=True)
    if p == float("inf"):
        return largest.squeeze(-1)
    unit = torch.where((largest == 0) | torch.isinf(largest), 1.0, largest)  # ONNX's powers are rough of what is large
    return ((apart / unit) ** p).sum(-1) ** (1 / p) * unit.squeeze(-1)


def _by_products(x1: Tensor, x2: Tensor) -> Tensor:
    """Euclidean distances from one matrix product, put together as PyTorch does it, so that roundings are its own."""
    ones1, ones2 = torch.ones_like(x1[..., :1]), torch.ones_like(x2[..., :1])
    squares1, squares2 = (x1 * x1).sum(-1, keepdim=True), (x2 * x2).sum(-1, keepdim=True)
    left, right = torch.cat([-2 * x1, squares1, ones1], -1), torch.cat([x2, ones2, squares2], -1)
    squares = left @ right.transpose(-2, -1)
    return torch.where(squares < 0, 0.0, squares).sqrt()  # ONNX Runtime's clamp makes numbers of NaN
