"""Which dimensions move, as callers say it: as ``torch.export``'s ``dynamic_shapes``, or simply by names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from export.errors import UserError
from export.signature import SizeRange

_MOST = 1 << 30
"""What ``torch.export`` calls a dimension without an upper end is far beyond it."""


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """What was said about dimensions, and their ranges."""

    given: bool = False
    symbols: dict[tuple[str, int], str] = field(default_factory=dict)
    """By input and dimension."""
    ranges: dict[str, SizeRange] = field(default_factory=dict)

    @classmethod
    def of(cls, dynamic: Any, ranges: Mapping[str, Any] | None, inputs: Mapping[str, torch.Tensor]) -> Dynamic:
        """Read both.

        Args:
            dynamic: ``{"ids": {0: "batch"}}``, ``{"ids": ("batch", None)}``, or a tuple of such in the order of the
                inputs; a name, a ``torch.export.Dim``, ``Dim.AUTO``, or None for what does not move. Nested as the
                inputs are, or by path.
            ranges: By symbol: a ``SizeRange``, or a pair.
            inputs: An example's tensors by path.

        Raises:
            UserError: an input or a dimension that there is not.
        """
        stated = {symbol: _range(symbol, bounds) for symbol, bounds in (ranges or {}).items()}
        symbols: dict[tuple[str, int], str] = {}
        if dynamic is not None:
            for name, index, mark in _marks(dynamic, inputs):
                symbol = _symbol(mark, name, index)
                if symbol is None:
                    continue
                symbols[name, index] = symbol
                if (bounds := _bounds_of(mark)) is not None:
                    stated.setdefault(symbol, bounds)
        return cls(given=dynamic is not None, symbols=symbols, ranges=stated)


def _marks(dynamic: Any, inputs: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, int, Any]]:
    """Every dimension that something is said about.

    Raises:
        UserError: an input or a dimension that there is not.
    """
    tops = list(dict.fromkeys(name.partition(".")[0] for name in inputs))
    if isinstance(dynamic, tuple | list):
        if len(dynamic) > len(tops):
            raise UserError(
                f"dynamic has {len(dynamic)} entries, the example has {len(tops)} inputs: {', '.join(tops)}"
            )
        dynamic = dict(zip(tops, dynamic, strict=False))
    if not isinstance(dynamic, Mapping):
        raise UserError(f"dynamic must be a mapping by input, or a tuple, got {type(dynamic).__name__}")
    if stray := [name for name in dynamic if name not in inputs and name not in tops]:
        raise UserError(f"dynamic names {stray[0]!r}, the example's inputs are {', '.join(inputs)}")
    for name, tensor in inputs.items():
        entry = dynamic[name] if name in dynamic else _at(dynamic, name.split("."))
        for index, mark in _dimensions(entry, name):
            place = index + tensor.dim() if index < 0 else index
            if not 0 <= place < tensor.dim():
                raise UserError(f"dynamic names dimension {index} of {name}, which has {tensor.dim()}")
            yield name, place, mark


def _at(entry: Any, path: list[str]) -> Any:
    """What is said of a nested input."""
    for key in path:
        if isinstance(entry, Mapping):
            entry = entry.get(key)
        elif isinstance(entry, tuple | list) and key.isdigit() and int(key) < len(entry):
            entry = entry[int(key)]
        else:
            return None
    return entry


def _dimensions(entry: Any, name: str) -> Iterator[tuple[int, Any]]:
    if entry is None:
        return
    if isinstance(entry, Mapping):
        yield from ((int(index), mark) for index, mark in entry.items())
    elif isinstance(entry, tuple | list):
        yield from enumerate(entry)
    else:
        raise UserError(
            f"dynamic[{name!r}] must be a mapping by dimension ({{0: 'batch'}}) or a tuple, got {type(entry).__name__}"
        )


def _symbol(mark: Any, name: str, index: int) -> str | None:
    """What a dimension is called; None where it does not move.

    Raises:
        UserError: a size that is computed from another's.
    """
    if mark is None or isinstance(mark, int):
        return None
    if isinstance(mark, str):
        return mark
    if type(mark).__name__ == "_DimHint":  # Dim.AUTO, Dim.DYNAMIC, Dim.STATIC
        return None if "STATIC" in str(mark).upper() else f"{name.replace('.', '_')}_{index}"
    called = getattr(mark, "__name__", None)
    if not isinstance(called, str) or not called.isidentifier():
        raise UserError(
            f"dynamic[{name!r}][{index}] must be a name, a torch.export.Dim or None, got {mark!r}: a size that depends "
            "on another's is a multiple of its own (ranges={...: SizeRange(multiple=2)})"
        )
    return called


def _bounds_of(mark: Any) -> SizeRange | None:
    """The range that a ``Dim`` states, where it has an upper end."""
    least, most = getattr(mark, "min", None), getattr(mark, "max", None)
    if not isinstance(least, int) or not isinstance(most, int) or most > _MOST:
        return None
    return SizeRange(min=least, max=most)


def _range(symbol: str, bounds: Any) -> SizeRange:
    if isinstance(bounds, SizeRange):
        return bounds
    if isinstance(bounds, tuple | list) and len(bounds) == 2:
        return SizeRange(min=int(bounds[0]), max=int(bounds[1]))
    raise UserError(f"ranges[{symbol!r}] must be a SizeRange or a pair of sizes, got {bounds!r}")
