"""The traced program computed in another order, or with other rounding: what any right artifact of it may do."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from export.float64 import Unguarded
from export.program import quiet


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
    _FUNCTIONS = frozenset({
        "tanh", "sigmoid", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "erf", "erfc", "gelu", "silu",
        "mish", "softplus", "elu", "selu", "celu", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh",
        "pow", "softmax", "log_softmax", "_softmax", "_log_softmax", "logsumexp", "hardswish", "log_sigmoid",
    })  # fmt: skip
    """Functions that libraries approximate."""
    _function_roundings = 1.0

    def __init__(self, exported: torch.export.ExportedProgram, seed: int, share: float = 1.0) -> None:
        super().__init__(exported.module())
        self._generator = torch.Generator().manual_seed(seed)
        self._share = share

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator, and its noise."""
        result = super().call_function(target, args, kwargs)
        name = str(getattr(target, "_opname", "getitem"))
        if name in self._EXACT:
            return result
        roundings = self._function_roundings if name in self._FUNCTIONS else 1.0
        return torch.utils._pytree.tree_map(partial(self._noisy, roundings=roundings), result)

    def _noisy(self, value: Any, roundings: float = 1.0) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        u = self._share * roundings * torch.finfo(value.dtype).eps / 2
        noise = torch.empty(value.shape, dtype=torch.float64).uniform_(-u, u, generator=self._generator)
        return (value.double() * (1 + noise.to(value.device))).to(value.dtype)


class Elementary(Rounded):
    """The program of ``decomposed``, its variances by their formula: sums of squares in the dtype itself."""

    WORD = "elementary operators"
    _function_roundings = 7.0
    """No library rounds its functions correctly; vectorised ones are within 3.5 units in the last place (SLEEF: Shibata
    and Petrogalli, 2020)."""
    _VARIANCES: ClassVar[dict[str, tuple[str, ...]]] = {
        "var": ("var",), "std": ("std",), "var_mean": ("var", "mean"), "std_mean": ("std", "mean"),
    }  # fmt: skip

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator, and its noise; a variance in the steps that an exporter takes."""
        parts = self._VARIANCES.get(str(getattr(target, "_opname", "")))
        if parts is None or getattr(target, "_overloadname", "") != "correction":
            return super().call_function(target, args, kwargs)
        x, dims, keepdim = args[0], args[1] if len(args) > 1 else None, kwargs.get("keepdim", False)
        dims = list(range(x.dim())) if dims is None else dims
        correction = kwargs.get("correction")
        count = x.numel() // max(x.sum(dims).numel(), 1)
        mean = self._noisy(x.mean(dims, keepdim=True))
        variance = self._noisy((x - mean).square()).sum(dims, keepdim=keepdim) / max(
            count - (1 if correction is None else correction), 0
        )
        values = {"var": variance, "std": variance.sqrt(), "mean": x.mean(dims, keepdim=keepdim)}
        results = tuple(self._noisy(values[part]) for part in parts)
        return results if len(results) > 1 else results[0]


class Cramped(Elementary):
    """The program of ``decomposed`` in a dtype whose range ends a little earlier: how near to overflow a value on the
    way comes is a matter of order, as where attention scales its factors or their product.
    """

    WORD = "less range"
    _HEADROOM = 2.0**8

    def _noisy(self, value: Any, roundings: float = 1.0) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        largest = torch.finfo(value.dtype).max / self._HEADROOM
        return torch.where(value.abs() > largest, value * torch.inf, value)


def decomposed(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program in elementary operators: normalisations, softmaxes and attention, too."""
    from torch._decomp import get_decompositions

    aten = torch.ops.aten
    table = torch.export.default_decompositions()
    table.update(
        get_decompositions(
            [
                aten.native_layer_norm, aten.native_group_norm, aten._native_batch_norm_legit_no_training,
                aten._native_batch_norm_legit,
                aten._softmax, aten._log_softmax, aten.gelu,
            ]
        )
    )  # fmt: skip
    with sdpa_kernel(SDPBackend.MATH), quiet():
        elementary: torch.export.ExportedProgram = exported.run_decompositions(table)
    return elementary
