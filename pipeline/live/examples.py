"""A signature from example calls: names and structure from ``forward``, dtypes and ranges from the tensors.

A dimension is dynamic where the caller says so; else where several examples differ; else dimension 0, if all inputs
share it. Whatever was assumed is said in a sentence, with how to change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from export.arrays import dtype_name, to_numpy
from export.errors import ContractError, UserError
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.live.calls import Calls, Inputs, flat_calls
from pipeline.live.dynamic import Dynamic

_ROWS_ELEMENTS = 1 << 22
"""An inferred batch has at most so many elements of inputs, but 32 rows may always be asked for."""
_USUAL_ROWS, _MOST_ROWS = 32, 1024


@dataclass(frozen=True, kw_only=True)
class Described:
    """What examples tell of a model."""

    signature: Signature
    rows: Inputs
    """Real rows, of the inputs that have one for each: the examples' own."""
    assumptions: tuple[str, ...]
    """Sentences about what the examples left open."""


def describe(
    module: nn.Module, examples: Any, dynamic: Any = None, ranges: Mapping[str, Any] | None = None
) -> Described:
    """The signature of a model, from one example call or several.

    Args:
        module: The model; only the parameters of its ``forward`` are read.
        examples: A tensor, a tuple of arguments, or a mapping of keyword arguments; a list holds several such calls.
        dynamic: Which dimensions move, as ``torch.export``'s ``dynamic_shapes``, or by names:
            ``{"ids": ("batch", "length")}``.
        ranges: By symbol: a ``SizeRange``, or its smallest and largest size.

    Raises:
        UserError: no tensors, calls that do not fit ``forward`` or each other, a dimension that no input has.
    """
    calls = flat_calls(module, examples)
    wanted = Dynamic.of(dynamic, ranges, calls.calls[0])
    symbols, why = _symbols(calls, wanted)
    inputs = tuple(_spec(name, calls, symbols) for name in calls.calls[0])
    batch = inputs[0].shape[0] if inputs[0].shape and isinstance(inputs[0].shape[0], str) else None
    bounds = {
        symbol: wanted.ranges[symbol] if symbol in wanted.ranges else _range(symbol == batch, place, calls)
        for symbol, place in _places(symbols).items()
    }
    if stray := sorted(wanted.ranges.keys() - bounds.keys()):
        raise UserError(f"ranges names {stray[0]!r}, but what moves is {', '.join(bounds) or 'nothing'}")
    signature = Signature(inputs=inputs, ranges=bounds, constants=calls.constants)
    for call in calls.calls:
        try:
            signature.check_inputs({name: to_numpy(tensor) for name, tensor in call.items()})
        except ContractError as error:
            raise UserError(f"an example does not fit what moves and what does not: {error}") from error
    seen = [spec for spec in inputs if spec.high is not None]
    values = ", ".join(f"{spec.name} in [{spec.low:g}, {spec.high:g}]" for spec in seen)
    return Described(
        signature=signature,
        rows=_rows(calls, signature),
        assumptions=(
            f"inputs {', '.join(f'{spec.name} {spec.dtype}{list(spec.shape)}' for spec in inputs)}".replace("'", ""),
            f"{why}; {_sizes(bounds, wanted)}" if bounds else why,
            *([f"integers as seen: {values} (more examples show more)"] if seen else []),
        ),
    )


def _symbols(calls: Calls, wanted: Dynamic) -> tuple[dict[tuple[str, int], str], str]:
    """The symbol of every dynamic dimension, and a sentence that says why those."""
    name = next(iter(calls.calls[0]))
    how = f"dynamic={{'{name}': {{0: 'batch'}}}} or --dynamic {name}:batch says which"
    if wanted.given:
        return wanted.symbols, "the dimensions that move are those of dynamic="
    if len(calls.calls) > 1:
        symbols = _from_differences(calls)
        if symbols:
            return symbols, f"dimensions in which the examples differ move ({how})"
    first = [name for name, tensor in calls.calls[0].items() if tensor.dim()]
    sizes = {calls.sizes(name, 0) for name in first}
    if len(sizes) == 1:
        return {(name, 0): "batch" for name in first}, f"only dimension 0, which all inputs share, moves ({how})"
    return {}, f"no dimension moves, since the inputs share no dimension 0 ({how})"


def _from_differences(calls: Calls) -> dict[tuple[str, int], str]:
    """Dimensions that differ from example to example; those that do so together are one symbol."""
    groups: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for name, index in calls.dimensions():
        sizes = calls.sizes(name, index)
        if len({*sizes}) > 1:
            groups.setdefault(sizes, []).append((name, index))
    symbols: dict[tuple[str, int], str] = {}
    for places in groups.values():
        name, index = places[0]
        called = "batch" if index == 0 else f"{name.replace('.', '_')}_{index}"
        called = called if called not in symbols.values() else f"{name.replace('.', '_')}_{index}"
        symbols |= dict.fromkeys(places, called)
    return symbols


def _places(symbols: Mapping[tuple[str, int], str]) -> dict[str, tuple[str, int]]:
    """By symbol, the first dimension that has it."""
    places: dict[str, tuple[str, int]] = {}
    for place, symbol in symbols.items():
        places.setdefault(symbol, place)
    return places


def _range(is_batch: bool, place: tuple[str, int], calls: Calls) -> SizeRange:
    """The sizes that a dimension is assumed to take."""
    sizes = calls.sizes(*place)
    if not is_batch:
        return SizeRange(min=min(sizes), max=max(sizes)) if len({*sizes}) > 1 else SizeRange(max=max(2, 2 * sizes[0]))
    elements = sum(tensor.numel() for tensor in calls.calls[0].values()) // max(sizes[0], 1)
    most = min(_MOST_ROWS, max(_USUAL_ROWS, _ROWS_ELEMENTS // max(elements, 1)))
    return SizeRange(max=max(most, 2 * max(sizes)))


def _sizes(bounds: Mapping[str, SizeRange], wanted: Dynamic) -> str:
    """``batch in [1, 1024], assumed (ranges={'batch': (1, 64)} or --range batch=1:64 states it)``."""
    assumed = [symbol for symbol in bounds if symbol not in wanted.ranges]
    text = ", ".join(f"{symbol} in {bound.summary}" for symbol, bound in bounds.items())
    return f"{text} (ranges={{'{assumed[0]}': (1, 64)}} or --range {assumed[0]}=1:64 states it)" if assumed else text


def _spec(name: str, calls: Calls, symbols: Mapping[tuple[str, int], str]) -> TensorSpec:
    tensors: Sequence[torch.Tensor] = [call[name] for call in calls.calls]
    shape = tuple(symbols.get((name, index), size) for index, size in enumerate(tensors[0].shape))
    spec = TensorSpec(name, dtype_name(tensors[0]), shape, keyword=name in calls.keywords)
    seen = [tensor for tensor in tensors if tensor.numel()]
    if not spec.is_integer or not seen:
        return spec
    return replace(
        spec,
        low=float(min(int(tensor.min()) for tensor in seen)),
        high=float(max(int(tensor.max()) for tensor in seen)),
    )


def _rows(calls: Calls, signature: Signature) -> Inputs:
    """The examples' rows one after the other, of those that agree in every other size."""
    batch = signature.batch
    rows = {}
    for spec in signature.inputs:
        tensors = [call[spec.name] for call in calls.calls]
        if batch is not None and spec.shape[:1] == (batch,):
            alike = [tensor for tensor in tensors if tensor.shape[1:] == tensors[0].shape[1:]]
            rows[spec.name] = torch.cat(alike)
    counts = {len(tensor) for tensor in rows.values()}
    return {name: tensor[: min(counts)].contiguous() for name, tensor in rows.items()}
