"""Operators that PyTorch's ONNX exporter has no translation for, or an inexact one, composed of those that it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from export.exporters.fourier import longest
from export.open_layers import MANY_ROWS

if TYPE_CHECKING:
    from torch.export import ExportedProgram

aten = torch.ops.aten
_LONGEST = 1024
"""A running product holds the square of so many elements; a longer one stays as it is."""


def composed(program: ExportedProgram) -> ExportedProgram:
    """The program with the operators of ``COMPOSITIONS`` as others; the same one where it has none."""
    targets = {node.target for node in program.graph.nodes}
    table = {operator: how for operator, how in COMPOSITIONS.items() if operator in targets}
    return program.run_decompositions(table) if table else program


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Any:
    """Distances of all pairs of rows: by products where PyTorch takes these, else, and more exactly, by differences."""
    if p == 2 and (compute_mode == 1 or (compute_mode in {None, 0} and _is_large(x1, x2))):
        return _by_products(x1, x2)
    apart = (x1.unsqueeze(-2) - x2.unsqueeze(-3)).abs()
    if p == 0:
        return (apart != 0).to(x1.dtype).sum(-1)
    if p == 1:
        return apart.sum(-1)
    if p == 2:
        return (apart * apart).sum(-1).sqrt()
    largest = apart.amax(-1, keepdim=True)
    if p == float("inf"):
        return largest.squeeze(-1)
    unit = torch.where((largest == 0) | torch.isinf(largest), 1.0, largest)  # ONNX's powers are rough of what is large
    return ((apart / unit) ** p).sum(-1) ** (1 / p) * unit.squeeze(-1)


def _is_large(x1: Tensor, x2: Tensor) -> bool:
    """Whether there are as many rows as PyTorch wants for products."""
    return any(isinstance(rows, int) and rows > MANY_ROWS for rows in (x1.shape[-2], x2.shape[-2]))


def _by_products(x1: Tensor, x2: Tensor) -> Tensor:
    """Euclidean distances from one matrix product, put together as PyTorch does it, so that roundings are its own."""
    ones1, ones2 = torch.ones_like(x1[..., :1]), torch.ones_like(x2[..., :1])
    squares1, squares2 = (x1 * x1).sum(-1, keepdim=True), (x2 * x2).sum(-1, keepdim=True)
    left, right = torch.cat([-2 * x1, squares1, ones1], -1), torch.cat([x2, ones2, squares2], -1)
    squares = left @ right.transpose(-2, -1)
    return torch.where(squares < 0, 0.0, squares).sqrt()  # ONNX Runtime's clamp makes numbers of NaN


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    """Without the squares of what is large or small."""
    large, small = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    ratio = small / torch.where(large == 0, 1.0, large)
    plain = large * torch.sqrt(1 + ratio * ratio)
    return torch.where(large == float("inf"), large, plain)


def _log_sigmoid(x: Tensor) -> Tensor:
    """ONNX Runtime's sigmoid is 0 from -18 on, and its logarithm without end."""
    return torch.clamp(x, max=0) - _log1p(torch.exp(-x.abs()))


def _log1p(x: Tensor) -> Tensor:
    """``log(1 + x)`` that keeps its figures near 0, after Kahan (Higham, Accuracy and Stability, problem 1.5)."""
    near = 1 + x
    lost = near - 1
    even = (lost == 0) | torch.isinf(near)
    quotient = torch.log(near) * (x / torch.where(even, 1.0, lost))
    return torch.where(lost == 0, x, torch.where(torch.isinf(near), torch.log(near), quotient))


def _expm1(x: Tensor) -> Tensor:
    """``exp(x) - 1`` that keeps its figures near 0, after Kahan (the same, section 1.14.1)."""
    near = torch.exp(x)
    lost = near - 1
    log = torch.log(near)
    even = (lost == 0) | (lost == -1) | torch.isinf(near)
    quotient = lost * (x / torch.where(even, 1.0, log))
    return torch.where(lost == 0, x, torch.where(even, lost, quotient))


def _copysign(x: Tensor, y: Tensor) -> Tensor:
    """Of two tensors; the zero below 0 is known by its reciprocal."""
    negative = (y < 0) | ((y == 0) & (1 / y < 0))
    return torch.where(negative, -x.abs(), x.abs())


def _fmax(x: Tensor, y: Tensor) -> Tensor:
    """The number, where the other is none."""
    return torch.where(torch.isnan(x), y, torch.where(torch.isnan(y), x, torch.maximum(x, y)))


def _fmin(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(torch.isnan(x), y, torch.where(torch.isnan(y), x, torch.minimum(x, y)))


def _aminmax(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        return x.min(), x.max()
    return x.amin(dim, keepdim=keepdim), x.amax(dim, keepdim=keepdim)


def _masked_select(x: Tensor, mask: Tensor) -> Tensor:
    x, mask = torch.broadcast_tensors(x, mask)
    return x.reshape(-1).index_select(0, torch.nonzero(mask.reshape(-1)).squeeze(1))


def _cummax(x: Tensor, dim: int) -> Any:
    return _running(x, dim, lambda beginnings: beginnings.amax(-1), float("-inf"))


def _cummin(x: Tensor, dim: int) -> Any:
    return _running(x, dim, lambda beginnings: beginnings.amin(-1), float("inf"))


def _running(x: Tensor, dim: int, extreme: Callable[[Tensor], Tensor], least: float) -> Any:
    """The extreme of every beginning, and the last place at which it is."""
    if x.ndim == 0 or not x.is_floating_point() or longest(x.shape[dim]) > _LONGEST:
        return NotImplemented
    rows = x.movedim(dim, -1)
    begins, places = _beginnings(rows)
    values = extreme(torch.where(begins, rows.unsqueeze(-2), least))
    reached = begins & (rows.unsqueeze(-2) == values.unsqueeze(-1))
    last = torch.where(reached, places, 0).amax(-1)
    return values.movedim(-1, dim), last.movedim(-1, dim)


def _beginnings(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which elements each beginning of the last dimension holds, (length, length), and the places of the elements."""
    places = torch.arange(rows.shape[-1], device=rows.device)
    return places.unsqueeze(0) <= places.unsqueeze(1), places


def _cumprod(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
    """Products of all beginnings, side by side."""
    if x.ndim == 0 or longest(x.shape[dim]) > _LONGEST:
        return NotImplemented
    rows = (x if dtype is None else x.to(dtype)).movedim(dim, -1)
    begins, _ = _beginnings(rows)
    beginnings = torch.where(begins, rows.unsqueeze(-2), torch.ones((), dtype=rows.dtype, device=rows.device))
    return beginnings.prod(-1).movedim(-1, dim)


def _median(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    """The lower one of an even number; NaN where there is any."""
    if x.ndim == 0:
        return NotImplemented
    middle = (x.shape[dim] - 1) // 2
    values, places = _ranked(x, middle, dim)
    if x.is_floating_point():
        missing = torch.isnan(x)
        any_missing = missing.any(dim, keepdim=True)
        values = torch.where(any_missing, float("nan"), values)
        places = torch.where(any_missing, missing.to(torch.int64).argmax(dim, keepdim=True), places)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _median_of_all(x: Tensor) -> Any:
    return NotImplemented if x.ndim == 0 else _median(x.reshape(-1), 0)[0]


def _kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    if x.ndim == 0:
        return NotImplemented
    values, places = _ranked(x, k - 1, dim)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _ranked(x: Tensor, rank: Any, dim: int) -> tuple[Tensor, Tensor]:
    """The value of a rank from below, and where it is."""
    values, places = torch.sort(x, dim=dim)
    return values.narrow(dim, rank, 1), places.narrow(dim, rank, 1)


def _adaptive_max(x: Tensor, sizes: Sequence[int]) -> Any:
    """The largest of every window and its place among the elements of a channel, one dimension after the other."""
    lengths = x.shape[-len(sizes) :]
    places = torch.arange(math.prod(lengths), device=x.device).reshape(lengths).expand(x.shape)
    for dim in range(-1, -len(sizes) - 1, -1):  # the last first: of equals the first in memory is named
        windows = _windows(x.shape[dim], sizes[dim])
        if windows is None:
            return NotImplemented
        largest = [x.narrow(dim, start, length).max(dim, keepdim=True) for start, length in windows]
        pieces = zip(windows, largest, strict=True)
        places = torch.cat([places.narrow(dim, *window).gather(dim, found.indices) for window, found in pieces], dim)
        x = torch.cat([found.values for found in largest], dim)
    return x, places


def _adaptive_mean(x: Tensor, sizes: Sequence[int]) -> Any:
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


def _attention_of_one_head(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *settings: Any, **named: Any
) -> Any:
    """The exporter takes four dimensions alone; of three the heads are missing."""
    if query.ndim != 3 or key.ndim != 3 or value.ndim != 3:
        return NotImplemented
    mask = mask.unsqueeze(0) if mask is not None and mask.ndim == 3 else mask
    heads = [part.unsqueeze(0) for part in (query, key, value)]
    return aten.scaled_dot_product_attention(*heads, mask, *settings, **named).squeeze(0)


def _rrelu(x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    """In eval mode."""
    return NotImplemented if training else torch.where(x >= 0, x, x * ((lower + upper) / 2))


COMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.cdist.default: _cdist,
    aten.hypot.default: _hypot,
    aten.log_sigmoid.default: _log_sigmoid,
    aten.log1p.default: _log1p,
    aten.expm1.default: _expm1,
    aten.copysign.Tensor: _copysign,
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
    aten.aminmax.default: _aminmax,
    aten.masked_select.default: _masked_select,
    aten.cummax.default: _cummax,
    aten.cummin.default: _cummin,
    aten.cumprod.default: _cumprod,
    aten.median.dim: _median,
    aten.median.default: _median_of_all,
    aten.kthvalue.default: _kthvalue,
    aten.rrelu.default: _rrelu,
    aten.adaptive_max_pool1d.default: _adaptive_max,
    aten.adaptive_max_pool2d.default: _adaptive_max,
    aten.adaptive_max_pool3d.default: _adaptive_max,
    aten.adaptive_avg_pool3d.default: _adaptive_mean,
    aten.scaled_dot_product_attention.default: _attention_of_one_head,
}
"""By operator of a traced program."""
