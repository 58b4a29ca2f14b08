"""Functions of one or two numbers, with all their figures."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor


def hypot(x: Tensor, y: Tensor) -> Tensor:
    """Without the squares of what is large or small."""
    large, small = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    ratio = small / torch.where(large == 0, 1.0, large)
    plain = large * torch.sqrt(1 + ratio * ratio)
    return torch.where(large == float("inf"), large, plain)


def magnitude(x: Tensor) -> Any:
    """``abs`` of complex numbers; that of real ones stays."""
    return hypot(*torch.view_as_real(x).unbind(-1)) if x.is_complex() else NotImplemented


def log_sigmoid(x: Tensor) -> Tensor:
    """ONNX Runtime's sigmoid is 0 from -18 on, and its logarithm without end."""
    return torch.clamp(x, max=0) - log1p(torch.exp(-x.abs()))


def log1p(x: Tensor) -> Tensor:
    """``log(1 + x)`` that keeps its figures near 0, after Kahan (Higham, Accuracy and Stability, problem 1.5)."""
    near = 1 + x
    lost = near - 1
    even = (lost == 0) | torch.isinf(near)
    quotient = torch.log(near) * (x / torch.where(even, 1.0, lost))
    return torch.where(lost == 0, x, torch.where(torch.isinf(near), torch.log(near), quotient))


def expm1(x: Tensor) -> Tensor:
    """``exp(x) - 1`` that keeps its figures near 0, after Kahan (the same, section 1.14.1)."""
    near = torch.exp(x)
    lost = near - 1
    log = torch.log(near)
    even = (lost == 0) | (lost == -1) | torch.isinf(near)
    quotient = lost * (x / torch.where(even, 1.0, log))
    return torch.where(lost == 0, x, torch.where(even, lost, quotient))


def atan2(y: Tensor, x: Tensor) -> Tensor:
    """The angle in its quadrant, also of zeros with a sign: from the smaller over the larger, which is at most 1."""
    y, x = _floating(y, x)
    smaller, larger = torch.minimum(x.abs(), y.abs()), torch.maximum(x.abs(), y.abs())
    equal = smaller == larger  # also both infinite; both zero are no angle by themselves
    ratio = torch.where(equal, (larger > 0).to(larger.dtype), smaller / torch.where(larger == 0, 1.0, larger))
    angle = torch.atan(ratio)
    angle = torch.where(y.abs() > x.abs(), math.pi / 2 - angle, angle)
    return copysign(torch.where(_is_negative(x), math.pi - angle, angle), y)


def copysign(x: Tensor, y: Tensor) -> Tensor:
    """The size of one number with the sign of another."""
    x, y = _floating(x, y)
    return torch.where(_is_negative(y), -x.abs(), x.abs())


def copysign_of_number(x: Tensor, y: float) -> Tensor:
    """The same with the sign of a constant."""
    (x,) = _floating(x)
    return -x.abs() if math.copysign(1, y) < 0 else x.abs()


def _floating(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All of the dtype of the result: what is not floating becomes so."""
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    return tuple(tensor.to(dtype) for tensor in tensors)


def _is_negative(x: Tensor) -> Tensor:
    """The zero below 0 is known by its reciprocal."""
    return (x < 0) | ((x == 0) & (1 / x < 0))


def fmax(x: Tensor, y: Tensor) -> Tensor:
    """The number, where the other is none."""
    return torch.where(torch.isnan(x), y, torch.where(torch.isnan(y), x, torch.maximum(x, y)))


def fmin(x: Tensor, y: Tensor) -> Tensor:
    """The number, where the other is none."""
    return torch.where(torch.isnan(x), y, torch.where(torch.isnan(y), x, torch.minimum(x, y)))


def rrelu(x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    """In eval mode."""
    return NotImplemented if training else torch.where(x >= 0, x, x * ((lower + upper) / 2))
