"""Values by their rank, extremes and products of every beginning, and what a mask selects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from export.exporters.fourier import longest

_LONGEST = 1024
"""What runs along a dimension holds the square of so many elements; a longer one stays as it is."""


def aminmax(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """Along one dimension, or of all."""
    if dim is None:
        shape = [1] * x.ndim if keepdim else []
        return x.min().reshape(shape), x.max().reshape(shape)
    return x.amin(dim, keepdim=keepdim), x.amax(dim, keepdim=keepdim)


def masked_select(x: Tensor, mask: Tensor) -> Any:
    """What the mask lets through, by the places at which it does."""
    if x.ndim == 0 and mask.ndim == 0:
        return NotImplemented
    x, mask = torch.broadcast_tensors(x, mask)
    return x.reshape(-1).index_select(0, torch.nonzero(mask.reshape(-1)).squeeze(1))


def cummax(x: Tensor, dim: int) -> Any:
    """The largest of every beginning."""
    return _running(x, dim, lambda beginnings: beginnings.amax(-1), float("-inf"))


def cummin(x: Tensor, dim: int) -> Any:
    """The least of every beginning."""
    return _running(x, dim, lambda beginnings: beginnings.amin(-1), float("inf"))


def _running(x: Tensor, dim: int, extreme: Callable[[Tensor], Tensor], least: float) -> Any:
    """The extreme of every beginning, and the last place at which it is."""
    if not _is_short(x, dim) or not x.is_floating_point():
        return NotImplemented
    rows = x.movedim(dim, -1)
    begins, places = _beginnings(rows)
    values = extreme(torch.where(begins, rows.unsqueeze(-2), least))
    missing = rows.isnan().unsqueeze(-2) & values.isnan().unsqueeze(-1)
    reached = begins & ((rows.unsqueeze(-2) == values.unsqueeze(-1)) | missing)
    last = torch.where(reached, places, 0).amax(-1)
    return values.movedim(-1, dim), last.movedim(-1, dim)


def _is_short(x: Tensor, dim: int) -> bool:
    """Whether every beginning along a dimension may be held at once; of nothing there are none."""
    return x.ndim > 0 and not _is_empty(x) and longest(x.shape[dim]) <= _LONGEST


def _is_empty(x: Tensor) -> bool:
    return any(isinstance(size, int) and size == 0 for size in x.shape)


def _beginnings(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which elements each beginning of the last dimension holds, (length, length), and the places of the elements."""
    places = torch.arange(rows.shape[-1], device=rows.device)
    return places.unsqueeze(0) <= places.unsqueeze(1), places


def cumprod(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
    """Products of all beginnings, side by side."""
    if not _is_short(x, dim):
        return NotImplemented
    rows = (x if dtype is None else x.to(dtype)).movedim(dim, -1)
    begins, _ = _beginnings(rows)
    beginnings = torch.where(begins, rows.unsqueeze(-2), torch.ones((), dtype=rows.dtype, device=rows.device))
    return beginnings.prod(-1).movedim(-1, dim)


def median(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    """The lower one of an even number; NaN where there is any."""
    if x.ndim == 0 or _is_empty(x):
        return NotImplemented
    middle = (x.shape[dim] - 1) // 2
    values, places = _ranked(x, middle, dim)
    if x.is_floating_point():
        missing = torch.isnan(x)
        any_missing = missing.any(dim, keepdim=True)
        values = torch.where(any_missing, float("nan"), values)
        places = torch.where(any_missing, missing.to(torch.int64).argmax(dim, keepdim=True), places)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def median_of_all(x: Tensor) -> Any:
    """The lower one of an even number."""
    return NotImplemented if x.ndim == 0 or _is_empty(x) else median(x.reshape(-1), 0)[0]


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The value of a rank, counted from 1."""
    if x.ndim == 0 or _is_empty(x):
        return NotImplemented
    values, places = _ranked(x, k - 1, dim)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _ranked(x: Tensor, rank: Any, dim: int) -> tuple[Tensor, Tensor]:
    """The value of a rank from below, and where it is."""
    values, places = torch.sort(x, dim=dim)
    return values.narrow(dim, rank, 1), places.narrow(dim, rank, 1)
