"""Pools whose windows follow from the size of what comes out; attention without heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def adaptive_max(x: Tensor, sizes: Sequence[int]) -> Any:
    """The largest of every window and its place among the elements of a channel, one dimension after the other."""
    lengths = x.shape[-len(sizes) :]
    places = torch.arange(math.prod(lengths), device=x.device).reshape(lengths).expand(x.shape)
    for dim in range(-1, -len(sizes) - 1, -1):  # the last first: of equals the first in memory is named
        windows = _windows(x.shape[dim], sizes[dim])
        if windows is None:
            return NotImplemented
        largest = [x.narrow(dim, start, length).max(dim, keepdim=True) for start, length in windows]
        named = [
            places.narrow(dim, start, length).gather(dim, at)
            for (start, length), (_, at) in zip(windows, largest, strict=True)
        ]
        x, places = torch.cat([values for values, _ in largest], dim), torch.cat(named, dim)
    return x, places


def adaptive_mean(x: Tensor, sizes: Sequence[int]) -> Any:
    """The mean of every window, one dimension after the other."""
    for dim in range(-len(sizes), 0):
        windows = _windows(x.shape[dim], sizes[dim])
        if windows is None:
            return NotImplemented
        x = torch.cat([x.narrow(dim, start, length).mean(dim, keepdim=True) for start, length in windows], dim)
    return x


def _windows(length: Any, count: int) -> list[tuple[int, Any]] | None:
    """Start and length of each window; None where several depend on an open length."""
    if count == 1:
        return [(0, length)]
    if not isinstance(length, int):
        return None
    starts = [number * length // count for number in range(count)]
    ends = [-(-(number + 1) * length // count) for number in range(count)]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]


def attention_of_one_head(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *settings: Any, **named: Any
) -> Any:
    """The exporter takes four dimensions alone; of three the heads are missing."""
    if query.ndim != 3 or key.ndim != 3 or value.ndim != 3:
        return NotImplemented
    mask = mask.unsqueeze(0) if mask is not None and mask.ndim in {1, 3} else mask
    heads = [part.unsqueeze(0) for part in (query, key, value)]
    return aten.scaled_dot_product_attention(*heads, mask, *settings, **named).squeeze(0)
