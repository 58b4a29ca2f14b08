"""The traced program in float64, where the module itself does not run in it: its casts to narrower floats are widened.

A model that says ``x.float()`` or ``dtype=torch.float32`` inside cannot be made double from outside; its graph can,
node by node.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

M = TypeVar("M", bound=nn.Module)
_NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})


class Unguarded(torch.fx.Interpreter):
    """Runs an exported program's module without its guards, which were checked when it was traced."""

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A submodule of control flow runs as it is."""
        return None if target == "_guards_fn" else super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator; what ran under autocast does so here, operator by operator."""
        if target is not torch.ops.higher_order.wrap_with_autocast:
            return super().call_function(target, args, kwargs)
        kind, dtype, enabled, cached, body, *operands = args
        with self.autocast(kind, dtype, enabled=enabled, cache_enabled=cached):
            return self._inside(body).run(*operands)

    def autocast(self, kind: str, dtype: torch.dtype, **settings: bool) -> AbstractContextManager[Any]:
        """What a block under autocast runs under."""
        return torch.autocast(kind, dtype, **settings)

    def _inside(self, body: torch.fx.GraphModule) -> Self:
        """This interpreter at work on a block of the program."""
        inner = copy.copy(self)
        torch.fx.Interpreter.__init__(inner, body)
        return inner


class Float64Program(Unguarded):
    """Runs an exported program in float64: ``run(*inputs)`` takes flat tensors, floating ones already in float64."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        super().__init__(double_precision(exported.module()))

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Flat outputs of flat inputs."""
        return self.run(*inputs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A weight or constant, widened."""
        return to_float64(super().get_attr(target, args, kwargs))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator, its requests for narrower floats answered in float64."""
        args, kwargs = pytree.tree_map(float64_dtype, (args, kwargs))
        return super().call_function(target, args, kwargs)

    def autocast(self, kind: str, dtype: torch.dtype, **settings: bool) -> AbstractContextManager[Any]:
        """None: nothing is made narrower."""
        return nullcontext()


class AsTraced(Unguarded):
    """Runs an exported program on tensors in float64 with the casts that it has: it rounds where the module does.

    Where a cast was to the dtype of something else, which is in float64 now, operators refuse what they are given: they
    are given it in float64.
    """

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        super().__init__(double_precision(exported.module()))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator, of dtypes as they come if it takes them; that they are as they were traced is not asserted."""
        if target is torch.ops.aten._assert_tensor_metadata.default:
            return None
        try:
            return super().call_function(target, args, kwargs)
        except RuntimeError:
            args, kwargs = pytree.tree_map(to_float64, (args, kwargs))
            return super().call_function(target, args, kwargs)


def double_precision(module: M) -> M:
    """The module itself, its weights and buffers in float64; ``Module.double`` leaves the complex ones as they are."""
    module._apply(to_float64)  # type: ignore[no-untyped-call]
    return module


def to_float64(value: Any) -> Any:
    """A tensor of real numbers in float64, one of complex numbers in complex128; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def float64_dtype(value: Any) -> Any:
    """Float64 for a narrower floating dtype, complex128 for a narrower complex one; anything else as it is."""
    if not isinstance(value, torch.dtype):
        return value
    return torch.complex128 if value.is_complex else torch.float64 if value in _NARROW else value
