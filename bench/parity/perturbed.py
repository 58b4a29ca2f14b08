"""The traced program computed in another order, or with other rounding: what any right artifact of it may do."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from export.float64 import Unguarded


class Reassociated(Unguarded):
    """The program, with the terms of every product summed in another order."""

    WORD = "re-association"
    _CONTRACTED: ClassVar[dict[str, tuple[int, int]]] = {
        "linear": (-1, -1), "matmul": (-1, -2), "mm": (1, 0), "bmm": (2, 1), "addmm": (1, 0), "conv1d": (1, 1),
        "conv2d": (1, 1), "conv3d": (1, 1),
    }  # fmt: skip
    """The contracted dimension of the first and of the second operand."""

    def __init__(self, exported: torch.export.ExportedProgram, seed: int) -> None:
        super().__init__(exported.module())
        self._generator = torch.Generator().manual_seed(seed)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator; a product has the order of its contracted dimension drawn anew."""
        kind = str(getattr(target, "_opname", ""))
        if kind in self._CONTRACTED and not kwargs:
            first = 1 if kind == "addmm" else 0
            args = list(args)
            left, right = args[first], args[first + 1]
            axes = self._CONTRACTED[kind]
            if left.dim() > 1 and right.dim() > 1 and left.shape[axes[0]] == right.shape[axes[1]]:
                order = torch.randperm(left.shape[axes[0]], generator=self._generator).to(left.device)
                args[first], args[first + 1] = left.index_select(axes[0], order), right.index_select(axes[1], order)
        return super().call_function(target, tuple(args), kwargs)


class Rounded(Unguarded):
    """The program, with noise of one rounding after every operator that computes: each result scaled by 1 + u x, x
    uniform in [-1, 1] and u the dtype's rounding (Monte Carlo arithmetic: Parker, 1997). ``share`` weakens it.
    """

    WORD = "rounding"
    _EXACT = frozenset({
        "view", "reshape", "permute", "transpose", "t", "flatten", "unsqueeze", "squeeze", "expand", "slice", "select",
        "cat", "stack", "split", "chunk", "clone", "contiguous", "to", "_to_copy", "embedding", "relu", "max_pool2d",
        "dropout", "alias", "detach", "detach_", "lift_fresh_copy", "index", "index_select", "gather", "neg", "abs",
        "where", "masked_fill", "clamp", "maximum", "minimum", "amax", "max", "unbind", "getitem",
    })  # fmt: skip
    """Operators that move or choose values without rounding."""

    def __init__(self, exported: torch.export.ExportedProgram, seed: int, share: float = 1.0) -> None:
        super().__init__(exported.module())
        self._generator = torch.Generator().manual_seed(seed)
        self._share = share

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator, and its noise."""
        result = super().call_function(target, args, kwargs)
        if str(getattr(target, "_opname", "getitem")) in self._EXACT:
            return result
        return torch.utils._pytree.tree_map(self._noisy, result)

    def _noisy(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        u = self._share * torch.finfo(value.dtype).eps / 2
        noise = torch.empty(value.shape, dtype=torch.float64).uniform_(-u, u, generator=self._generator)
        return (value.double() * (1 + noise.to(value.device))).to(value.dtype)
