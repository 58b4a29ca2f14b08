"""Which values half precision cannot hold: those that overflow, and those that vanish.

A value that is small beside others of its tensor is lost without harm: its share of the error is that of rounding the
others. What vanishes is a tensor whose typical size lies below the dtype's smallest normal number, or whose small
values are divided by, or taken the logarithm of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from export.taps.trace import Trace

_MOST_VANISHING = 0.01
_RELATIVE = {"log": 0, "log2": 0, "log10": 0, "log_": 0, "reciprocal": 0, "rsqrt": 0, "div": 1, "pow": 0}
"""Operators whose result depends on the size of what is small, and which argument that is; a power's is where its
exponent is negative, or not known."""


@dataclass
class _Extremes:
    """What was seen of one value."""

    largest: float = 0.0
    small_count: int = 0
    nonzero_count: int = 0
    squares: float = 0.0

    def add(self, value: torch.Tensor, smallest_normal: float) -> None:
        size = value.detach().abs().double()
        finite = size[torch.isfinite(size)]
        self.largest = max(self.largest, float(finite.max()) if finite.numel() else 0.0)
        self.small_count += int(((size > 0) & (size < smallest_normal)).sum())
        self.nonzero_count += int((size > 0).sum())
        self.squares += float(finite.square().sum())


class RangeScan:
    """The extremes of a program's values over calls, held to a dtype's range."""

    def __init__(self, trace: Trace, half: torch.dtype = torch.float16) -> None:
        self._trace = trace
        self._name = str(half).removeprefix("torch.")
        self._limits = torch.finfo(half)
        self._seen: dict[str, _Extremes] = {}

    def add(self, values: Mapping[str, Any]) -> None:
        """Take in one call's values by node; what is no tensor of real numbers is passed over."""
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
                self._seen.setdefault(name, _Extremes()).add(value, self._limits.smallest_normal)

    @property
    def count(self) -> int:
        """Values that were looked at."""
        return len(self._seen)

    def outside(self) -> dict[str, str]:
        """What the dtype cannot hold, and why, in the order in which values were added."""
        divided = self._divided()
        reasons = {}
        for name, seen in self._seen.items():
            vanishing = seen.small_count / max(seen.nonzero_count, 1)
            typical = math.sqrt(seen.squares / max(seen.nonzero_count, 1))
            if seen.largest > self._limits.max:
                reasons[name] = f"reaches {seen.largest:.3g}, {self._name} ends at {self._limits.max:g}: it overflows"
            elif vanishing > _MOST_VANISHING and (typical < 2 * self._limits.smallest_normal or name in divided):
                smallest = self._limits.smallest_normal
                reasons[name] = f"{vanishing:.1%} of its values lie below {smallest:.2g}: they lose precision"
        return reasons

    def _divided(self) -> set[str]:
        """Values of whose small elements the size matters."""
        names: set[str] = set()
        for name, node in self._trace.nodes.items():
            kind = self._trace.operator(name).split(".")[1] if "." in self._trace.operator(name) else ""
            if kind not in _RELATIVE or (kind == "pow" and _is_positive(node.args[1])):
                continue
            divisor = node.args[_RELATIVE[kind]]
            names |= {divisor.name} if isinstance(divisor, torch.fx.Node) else set()
        return names


def _is_positive(exponent: Any) -> bool:
    return isinstance(exponent, int | float) and exponent >= 0
