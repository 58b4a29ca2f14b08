"""Faults planted into the user's own model, weaker and weaker, to find the weakest of each class that parity sees.

Each class changes a copy of the module in place; ``strength`` is relative. A class that the model has no part for (no
norm, no dropout) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

_DECADES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
_EPSILONS = (1e3, 1e2, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
_BITS = (3, 7, 10, 13, 16, 19)
_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d,
)  # fmt: skip
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
Plant = Callable[[nn.Module, float], bool]


@dataclass(frozen=True)
class Fault:
    """One class of fault."""

    name: str
    unit: str
    """What its strength is in words, with ``{}`` for the number; empty if it has none."""
    strengths: tuple[float, ...]
    """From strong to weak."""
    plant: Plant
    """``plant(module, strength)``: whether the model has a part for it."""


def _largest(module: nn.Module) -> torch.Tensor | None:
    """The weight tensor with the most elements."""
    weights = [p for p in module.parameters() if p.is_floating_point() and p.dim() >= 2]
    return max(weights, key=lambda p: p.numel(), default=None)


def _on_largest(change: Callable[[torch.Tensor, float], None]) -> Plant:
    def plant(module: nn.Module, strength: float) -> bool:
        weight = _largest(module)
        if weight is None:
            return False
        with torch.no_grad():
            change(weight.data, strength)
        return True

    return plant


def _one_weight(weight: torch.Tensor, strength: float) -> None:
    flat = weight.view(-1)
    flat[flat.abs().argmax()] *= 1 + strength


def _whole(weight: torch.Tensor, strength: float) -> None:
    weight *= 1 + strength


def _rounded(weight: torch.Tensor, bits: float) -> None:
    """``bits`` of mantissa are kept: 7 is bfloat16's, 10 is TF32's and float16's."""
    mantissa, exponent = torch.frexp(weight)
    scale = 2.0 ** (bits + 1)
    weight.copy_(torch.ldexp(torch.round(mantissa * scale) / scale, exponent))


def _rows_swapped(weight: torch.Tensor, strength: float) -> None:
    if len(weight) > 1:
        weight[[0, 1]] = weight[[1, 0]]


def _stale(module: nn.Module, strength: float) -> bool:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(strength * noise * parameter.abs().mean())
    return True


def _epsilon(module: nn.Module, strength: float) -> bool:
    norms = [part for part in module.modules() if isinstance(part, _NORMS)]
    for norm in norms[:1]:
        norm.eps *= 1 + strength
    return bool(norms)


def _training(kinds: tuple[type[nn.Module], ...]) -> Plant:
    def plant(module: nn.Module, strength: float) -> bool:
        parts = [part for part in module.modules() if isinstance(part, kinds)]
        for part in parts:
            part.train()
        return bool(parts)

    return plant


def _tanh_gelu(module: nn.Module, strength: float) -> bool:
    parts = [part for part in module.modules() if isinstance(part, nn.GELU) and part.approximate == "none"]
    for part in parts:
        part.approximate = "tanh"
    return bool(parts)


def _no_bias(module: nn.Module, strength: float) -> bool:
    biases = [p for name, p in module.named_parameters() if name.endswith("bias") and bool(p.abs().max() > 0)]
    with torch.no_grad():
        for bias in biases[-1:]:
            bias.mul_(1 - strength)
    return bool(biases)


FAULTS = (
    Fault("one weight changed", "x (1 + {:g})", _DECADES, _on_largest(_one_weight)),
    Fault("one weight tensor scaled", "x (1 + {:g})", _DECADES, _on_largest(_whole)),
    Fault("one weight tensor rounded", "{:g} bits of mantissa", _BITS, _on_largest(_rounded)),
    Fault("all weights stale", "noise of {:g} of their size", _DECADES, _stale),
    Fault("two rows swapped", "", (1.0,), _on_largest(_rows_swapped)),
    Fault("a bias weakened", "by {:g}", (1.0, *_DECADES), _no_bias),
    Fault("epsilon of a norm", "x (1 + {:g})", _EPSILONS, _epsilon),
    Fault("GELU by tanh", "", (1.0,), _tanh_gelu),
    Fault("dropout left on", "", (1.0,), _training(_DROPOUTS)),
    Fault("batch norm in training mode", "", (1.0,), _training(_NORMS[:3])),
)
