"""The one contract that every backend, check, benchmark and server reads: named tensors with symbolic shapes.

    Signature(
        inputs=(TensorSpec("image", "float32", ("batch", 1, 8, 8)),),
        output_names=("logits", "probabilities"),
        ranges={"batch": SizeRange(max=4096)},
    )

A dimension is a number (static) or a name (dynamic, one range per name). ``outputs`` is filled in by running and
tracing the model (export/completion.py); there a dimension may also be an expression over the names, or ``?``: a size
that only the call decides (export/sizes.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from export.arrays import Array, dtype_name
from export.errors import ContractError, UserError
from export.record import OMITTED
from export.sizes import Sizes, size_of, symbols_of
from export.tensor import TensorSpec, draw, shape_of

__all__ = ["Signature", "SizeRange", "TensorSpec"]  # what a signature is written with
Constant = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class SizeRange:
    """The sizes that a symbol may take, both ends included; ``example`` is the one used for tracing."""

    min: int = 1
    max: int = 1024
    example: int | None = None
    multiple: int = field(default=1, metadata=OMITTED)
    """What every size is a multiple of."""

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max:
            raise UserError(f"SizeRange must have 0 <= min <= max, got min={self.min} max={self.max}")
        if self.multiple < 1 or self.min % self.multiple or self.max % self.multiple:
            raise UserError(
                f"SizeRange.min and max must be multiples of multiple={self.multiple}, got {self.min} and {self.max}"
            )
        if self.example is not None and self.example not in self:
            raise UserError(f"SizeRange.example must lie in {self.summary}, got {self.example}")

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max and size % self.multiple == 0

    def fit(self, size: int) -> int:
        """The nearest size in the range; the larger of two that are equally near."""
        rounded = (2 * size + self.multiple) // (2 * self.multiple) * self.multiple
        return min(max(rounded, self.min), self.max)

    @property
    def summary(self) -> str:
        """``[32, 640], a multiple of 32``."""
        return f"[{self.min}, {self.max}]" + (f", a multiple of {self.multiple}" if self.multiple > 1 else "")


_MOST_ONES = 4
"""Symbols that are 1 in every combination: 15 of them."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Named inputs and outputs, and the range of every symbol.

    Raises:
        UserError: names that repeat, a symbol without a range, a range without its symbol.
    """

    inputs: tuple[TensorSpec, ...]
    output_names: tuple[str, ...] = ()
    """In the order in which the model's (nested) result is flattened; derived from its structure if left out."""
    ranges: dict[str, SizeRange] = field(default_factory=dict)
    outputs: tuple[TensorSpec, ...] = ()
    constants: dict[str, Constant] = field(default_factory=dict, metadata=OMITTED)
    """Arguments of ``forward`` that are no tensors and the same in every call: ``{"use_cache": False}``."""
    rows_together: bool = field(default=False, metadata=OMITTED)
    """Whether the rows of a call are one whole, though the model does not show it: where False, that is looked for."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """In their order."""
        return tuple(spec.name for spec in self.inputs)

    def __post_init__(self) -> None:
        self._check_constants()
        names = [spec.name for spec in self.inputs] + list(self.output_names)
        if not self.inputs:
            raise UserError("Signature.inputs must name at least one input")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"tensor names must differ, got {repeated} more than once")
        symbols = {dim for spec in self.inputs for dim in spec.shape if isinstance(dim, str)}
        if strange := sorted(dim for dim in symbols if not dim.isidentifier()):
            raise UserError(f"a dynamic dimension of an input is a name, got {strange[0]!r}")
        if missing := sorted(symbols - set(self.ranges)):
            raise UserError(
                f"every symbol needs a range, missing for {missing}: ranges={{'{missing[0]}': SizeRange(...)}}"
            )
        if unused := sorted(set(self.ranges) - symbols):
            raise UserError(
                f"the dynamic dimension {unused[0]!r} is declared, but no input has it: "
                f"inputs are {', '.join(f'{spec.name}{list(spec.shape)}' for spec in self.inputs)}"
            )
        if stray := sorted({symbol for spec in self.inputs for symbol in spec.bounded_by} - symbols):
            raise UserError(f"low or high of an input depends on {stray[0]!r}, which no input's shape has")
        depends = {symbol for spec in self.outputs for dim in spec.shape for symbol in symbols_of(dim)}
        if unknown := sorted(depends - symbols):
            raise UserError(f"an output's size depends on {unknown[0]!r}, which no input has")

    def _check_constants(self) -> None:
        taken = {spec.name.partition(".")[0] for spec in self.inputs}
        for name, value in self.constants.items():
            if name in taken:
                raise UserError(f"{name!r} is an input and a constant: leave one of the two out")
            if not isinstance(value, Constant):
                raise UserError(f"the constant {name!r} must be a number, a text, a bool or None, got {value!r}")
            if isinstance(value, float) and value == int(value):
                raise UserError(
                    f"the constant {name!r} must not be a whole number as a float, which no record tells from an "
                    f"integer, got {value!r}: make it the default of forward's parameter"
                )

    @property
    def has_draw_functions(self) -> bool:
        """Whether a function of the recipe's draws one of the inputs."""
        return any(spec.by_function for spec in self.inputs)

    @property
    def batch(self) -> str | None:
        """The symbol that counts rows: the first dimension of the first input, where that is dynamic."""
        shape = self.inputs[0].shape
        return shape[0] if shape and isinstance(shape[0], str) else None

    def example_sizes(self) -> dict[str, int]:
        """A size per symbol for tracing: all different, and neither 0 nor 1, on which exporters specialise."""
        sizes: dict[str, int] = {}
        for index, (name, bounds) in enumerate(self.ranges.items()):
            size = bounds.fit((3 + index) * bounds.multiple)
            while size in sizes.values() and size + bounds.multiple in bounds:
                size += bounds.multiple
            sizes[name] = size if bounds.example is None else bounds.example
        return sizes

    def sizes_at(self, batch_rows: int) -> dict[str, int]:
        """Example sizes with ``batch_rows`` rows; the example's own where no dimension counts rows."""
        return self.example_sizes() | ({self.batch: batch_rows} if self.batch else {})

    def rows(self, sizes: Sizes) -> int:
        """How many rows a call with ``sizes`` answers; 1 where no dimension counts rows."""
        return sizes[self.batch] if self.batch else 1

    def ones(self, sizes: Sizes) -> list[dict[str, int]]:
        """``sizes`` with one or several symbols at 1, where that is declared: compilers hold 1 apart."""
        names = [name for name, bounds in self.ranges.items() if 1 in bounds][:_MOST_ONES]
        counts = range(1, len(names) + 1)
        together = [chosen for count in counts for chosen in itertools.combinations(names, count)]
        return [{**sizes, **dict.fromkeys(chosen, 1)} for chosen in together]

    def example(self, sizes: Sizes, seed: int) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs of the given sizes, drawn from ``seed``: normal floats, integers between ``low`` and ``high``, or what
        functions draw.

        Raises:
            UserError: see ``export.tensor.draw``.
        """
        return {spec.name: draw(spec, sizes, seed) for spec in self.inputs}

    def shapes(self, sizes: Sizes) -> list[tuple[TensorSpec, tuple[int, ...]]]:
        """Every input with its shape at ``sizes``."""
        return [(spec, shape_of(spec, sizes)) for spec in self.inputs]

    def elements(self, sizes: Sizes) -> int:
        """How many elements the inputs have together."""
        return sum(math.prod(shape) for _, shape in self.shapes(sizes))

    def check_inputs(self, inputs: Mapping[str, Array]) -> dict[str, int]:
        """The size of every symbol in ``inputs``.

        Raises:
            ContractError: a missing or surplus name, another dtype, rank or static size, a size out of its range,
                or two sizes for one symbol.
        """
        if inputs.keys() != {spec.name for spec in self.inputs}:
            raise ContractError(f"inputs must be {[spec.name for spec in self.inputs]}, got {list(inputs)}")
        return self.check_arrays([inputs[spec.name] for spec in self.inputs])

    def check_arrays(self, arrays: Sequence[Array]) -> dict[str, int]:
        """As ``check_inputs``, for arrays already in the order of ``inputs``."""
        for spec, array in zip(self.inputs, arrays, strict=True):
            _check_dtype(spec, array)
        return self.check_shapes([tuple(array.shape) for array in arrays])

    def check_shapes(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """As ``check_arrays``, of shapes alone: before there are arrays."""
        sizes: dict[str, int] = {}
        first: dict[str, str] = {}
        for spec, shape in zip(self.inputs, shapes, strict=True):
            _check_shape(spec, shape, sizes)
            first |= {symbol: spec.name for symbol in sizes if symbol not in first}
        for symbol, size in sizes.items():
            if size not in self.ranges[symbol]:
                bounds = self.ranges[symbol]
                raise ContractError(f"{first[symbol]}: {symbol!r} must lie in {bounds.summary}, got {size}")
        return sizes

    def check_outputs(self, arrays: Sequence[Array], sizes: Sizes) -> None:
        """Check what a backend returned against the outputs at ``sizes``.

        Raises:
            ContractError: another count, dtype, rank or size; a frozen dynamic dimension is named.
        """
        if len(arrays) != len(self.outputs):
            raise ContractError(f"outputs must be {list(self.output_names)}, got {len(arrays)} of them")
        for spec, array in zip(self.outputs, arrays, strict=True):
            _check_dtype(spec, array)
            _check_shape(spec, tuple(array.shape), dict(sizes))


def _check_dtype(spec: TensorSpec, array: Array) -> None:
    if dtype_name(array) != spec.dtype:
        raise ContractError(f"{spec.name} must be {spec.dtype}, got {dtype_name(array)}")


def _check_shape(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Check one shape, adding the symbols that it fixes to ``sizes``; a ``?`` is left to the comparison."""
    if len(shape) != len(spec.shape):
        raise ContractError(f"{spec.name} must have shape {list(spec.shape)}, got {list(shape)}")
    for index, (expected, size) in enumerate(zip(spec.shape, shape, strict=True)):
        if isinstance(expected, str) and expected.isidentifier():
            expected_size: int | None = sizes.setdefault(expected, size)
        else:
            expected_size = size_of(expected, sizes)
        if expected_size is not None and size != expected_size:
            symbol = f" ({expected!r})" if isinstance(expected, str) else ""
            raise ContractError(f"{spec.name} must have size {expected_size} in dimension {index}{symbol}, got {size}")
