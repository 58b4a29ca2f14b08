"""The traced program computed in another order, or with other rounding: what any right artifact of it may do."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import numpy as np
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

    Roundings are no chance: a kernel rounds equal values equally, and what an image of one colour is off by does not
    average out. ``alike`` draws the noise for values, not for places.
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

    def __init__(
        self, exported: torch.export.ExportedProgram, seed: int, share: float = 1.0, *, alike: bool = False
    ) -> None:
        super().__init__(exported.module())
        self._generator = torch.Generator().manual_seed(seed)
        self._share = share
        self._alike = alike

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
        if self._alike:
            noise = u * _drawn_by(value, int(torch.randint(2**62, (), generator=self._generator)))
        else:
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
        count = math.prod(x.shape[dim] for dim in dims)
        mean = self._noisy(self._sum(x, dims) / count)
        squares = self._sum(self._noisy((x - mean).square()), dims)
        variance = squares / max(count - (1 if correction is None else correction), 0)
        values = {"var": variance, "std": variance.sqrt(), "mean": mean}
        results = tuple(self._noisy(values[part] if keepdim else values[part].squeeze(dims)) for part in parts)
        return results if len(results) > 1 else results[0]

    def _sum(self, x: torch.Tensor, dims: list[int]) -> torch.Tensor:
        """Over some dimensions, which stay, with one element each."""
        return x.sum(dims, keepdim=True)


class InSequence(Elementary):
    """The program of ``decomposed``, its sums in sequence, in as many lanes as a vector register has: the error of such
    a sum grows with the number of its terms, where libraries that add by halves have its logarithm (Higham, SIAM J.
    Sci. Comput. 14, 1993).
    """

    WORD = "sums in sequence"
    _LANES = 8

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator; a sum or a mean in sequence."""
        kind, overload = str(getattr(target, "_opname", "")), getattr(target, "_overloadname", "")
        if kind not in ("sum", "mean") or overload not in ("dim_IntList", "dim") or not args[0].is_floating_point():
            return super().call_function(target, args, kwargs)
        x, dims, keepdim = args[0], args[1], args[2] if len(args) > 2 else kwargs.get("keepdim", False)
        dims = list(dims or range(x.dim()))
        total = self._sum(x, dims)
        result = total / math.prod(x.shape[dim] for dim in dims) if kind == "mean" else total
        return self._noisy(result if keepdim else result.squeeze(dims))

    def _sum(self, x: torch.Tensor, dims: list[int]) -> torch.Tensor:
        if x.dtype not in (torch.float32, torch.float64) or not x.numel():
            return super()._sum(x, dims)
        terms = x.detach().cpu().numpy()
        summed = tuple(dim % x.dim() for dim in dims)
        rest = tuple(dim for dim in range(x.dim()) if dim not in summed)
        columns = np.ascontiguousarray(terms.transpose(*summed, *rest)).reshape(-1, *(x.shape[dim] for dim in rest))
        shape = [1 if dim in summed else size for dim, size in enumerate(x.shape)]
        whole = len(columns) // self._LANES * self._LANES
        lanes = columns[:whole].reshape(-1, self._LANES, *columns.shape[1:])
        terms = np.concatenate([*np.add.accumulate(lanes, axis=0)[-1:], columns[whole:]])
        return torch.from_numpy(np.add.accumulate(terms, axis=0)[-1].reshape(shape)).to(x.device)


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


def _drawn_by(value: torch.Tensor, salt: int) -> torch.Tensor:
    """Numbers uniform in [-1, 1), equal for equal elements: SplitMix64's finaliser (Steele, Lea and Flood, 2014)."""
    bits = value.double().contiguous().view(torch.int64) + salt
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        bits = (bits ^ (bits >> shift)) * factor
    return ((bits ^ (bits >> 31)) >> 11).double() / 2**51 - 1  # the shift keeps the sign, which the last xor takes away


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
