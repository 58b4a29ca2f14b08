"""Example calls, flat: every tensor by its path, bound to the parameters of ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from export.arrays import to_torch
from export.errors import UserError
from export.flat import has_names, parts
from export.signature import Constant

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Example calls, flat: every tensor by its path."""

    calls: tuple[Inputs, ...]
    constants: dict[str, Constant]
    keywords: frozenset[str] = field(default=frozenset())

    def sizes(self, name: str, index: int) -> tuple[int, ...]:
        """One dimension's size in every call."""
        return tuple(call[name].shape[index] for call in self.calls)

    def dimensions(self) -> Iterator[tuple[str, int]]:
        """Every dimension, by input and index."""
        for name, tensor in self.calls[0].items():
            yield from ((name, index) for index in range(tensor.dim()))


def flat_calls(module: nn.Module, examples: Any) -> Calls:
    """Every example as tensors by path, in the order of ``forward``'s parameters.

    Raises:
        UserError: there are none, or they do not fit.
    """
    given = examples if isinstance(examples, list) else [examples]
    if not given:
        raise UserError("examples must hold at least one call, got an empty list")
    flat = [_flat_call(module, example) for example in given]
    first = flat[0]
    for other in flat[1:]:
        if other.calls[0].keys() != first.calls[0].keys() or other.constants != first.constants:
            raise UserError(
                f"all examples must give the same inputs, got {list(first.calls[0])} and {list(other.calls[0])}"
            )
        for name, tensor in other.calls[0].items():
            like = first.calls[0][name]
            if (tensor.dtype, tensor.dim()) != (like.dtype, like.dim()):
                raise UserError(
                    f"{name} must have the same dtype and rank in all examples, got {like.dtype}{list(like.shape)} "
                    f"and {tensor.dtype}{list(tensor.shape)}"
                )
    return replace(first, calls=tuple(call.calls[0] for call in flat))


def _flat_call(module: nn.Module, example: Any) -> Calls:
    """One example: bound to the parameters, tensors apart from constants.

    Raises:
        UserError: it does not bind, or holds what is neither.
    """
    positional, keywords = _arguments(example)
    parameters = inspect.signature(module.forward)
    try:
        bound = parameters.bind(*positional, **keywords)
    except TypeError as error:
        raise UserError(
            f"the example does not fit forward{parameters}: {error}. A tuple holds the arguments of one call, a "
            "mapping its keyword arguments, a list several calls"
        ) from error
    tensors: Inputs = {}
    constants: dict[str, Constant] = {}
    by_keyword: set[str] = set()
    for name, value in bound.arguments.items():
        kind = parameters.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            arguments = {f"{name}_{index}": item for index, item in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            arguments = dict(value)
            by_keyword |= arguments.keys()
        else:
            arguments = {name: value}
        for called, argument in arguments.items():
            if argument is None or isinstance(argument, bool | int | float | str):
                constants[called] = argument
            else:
                tensors |= _tensors(argument, called)
    if not tensors:
        raise UserError(f"the example must hold at least one tensor, got {type(example).__name__} without any")
    return Calls(calls=(tensors,), constants=constants, keywords=frozenset(by_keyword))


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of one call."""
    if isinstance(example, Mapping):
        return (), {str(name): value for name, value in example.items()}
    if isinstance(example, tuple) and not hasattr(example, "_fields"):
        return example, {}
    return (example,), {}


def _tensors(value: Any, path: str) -> Inputs:
    """The tensors of an argument by path, arrays as tensors; a field that is None is left out.

    Raises:
        UserError: something that is neither a tensor nor a container of tensors.
    """
    if isinstance(value, torch.Tensor):
        return {path: value.detach().cpu()}
    if isinstance(value, np.ndarray):
        return {path: to_torch(value)}
    items = parts(value, path)
    if items is None:
        raise UserError(f"{path} must be a tensor, or a container of tensors, got {type(value).__name__}")
    has_fields = has_names(value) and not isinstance(value, Mapping)
    given = ((key, item) for key, item in items if item is not None or not has_fields)
    return {name: tensor for key, item in given for name, tensor in _tensors(item, f"{path}.{key}").items()}
