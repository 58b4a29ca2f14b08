"""The one contract that every backend, check, benchmark and server reads: named tensors with symbolic shapes.

    Signature(
        inputs=(TensorSpec("image", "float32", ("batch", 1, 8, 8)),),
        output_names=("logits", "probabilities"),
        ranges={"batch": SizeRange(max=4096)},
    )

A dimension is a number (static) or a name (dynamic, one range per name). ``outputs`` is filled in by
running the model (``export.program.complete``); there a dimension may also be ``?``: dynamic, but no symbol's own size.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from export.arrays import Array, dtype_name
from export.errors import ContractError, UserError

_NAME = re.compile(r"\w[\w.]*")
"""Files are named after tensors: none is hidden, or leads up."""
DTYPES = (
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip

Sizes = Mapping[str, int]
"""A size for every symbol: ``{"batch": 32}``."""


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor: ``shape`` holds a number, or a symbol's name, per dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: float | None = None
    """Smallest value an example draws; for integers 0 if not given."""
    high: float | None = None
    """Largest value an example draws (inclusive); for integers 1 if not given."""
    keyword: bool = False
    """Whether the model takes this input as ``forward(..., name=tensor)``; positional otherwise."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(f"TensorSpec.name must be letters, digits, '_' and '.', no '.' first, got {self.name!r}")
        if self.dtype not in DTYPES:
            raise UserError(f"{self.name}: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if any(isinstance(dim, int) and dim < 0 for dim in self.shape):
            raise UserError(f"{self.name}: static sizes must be >= 0, got {self.shape}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UserError(f"{self.name}: low must be <= high, got {self.low} and {self.high}")


@dataclass(frozen=True, kw_only=True)
class SizeRange:
    """The sizes that a symbol may take, both ends included; ``example`` is the one used for tracing."""

    min: int = 1
    max: int = 1024
    example: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max:
            raise UserError(f"SizeRange must have 0 <= min <= max, got min={self.min} max={self.max}")
        if self.example is not None and not self.min <= self.example <= self.max:
            raise UserError(f"SizeRange.example must lie in [{self.min}, {self.max}], got {self.example}")

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max


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

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.inputs] + list(self.output_names)
        if not self.inputs:
            raise UserError("Signature.inputs must name at least one input")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"tensor names must differ, got {repeated} more than once")
        symbols = {dim for spec in self.inputs for dim in spec.shape if isinstance(dim, str)}
        if missing := sorted(symbols - set(self.ranges)):
            raise UserError(
                f"every symbol needs a range, missing for {missing}: ranges={{'{missing[0]}': SizeRange(...)}}"
            )
        if unused := sorted(set(self.ranges) - symbols):
            raise UserError(
                f"the dynamic dimension {unused[0]!r} is declared, but no input has it: "
                f"inputs are {', '.join(f'{spec.name}{list(spec.shape)}' for spec in self.inputs)}"
            )
        positional_after_keyword = [
            later.name
            for first, later in zip(self.inputs, self.inputs[1:], strict=False)
            if first.keyword and not later.keyword
        ]
        if positional_after_keyword:
            raise UserError(
                f"positional inputs must come before keyword ones, got {positional_after_keyword[0]!r} after one"
            )

    @property
    def batch(self) -> str | None:
        """The symbol that counts rows: the first dimension of the first input, where that is dynamic."""
        shape = self.inputs[0].shape
        return shape[0] if shape and isinstance(shape[0], str) else None

    def example_sizes(self) -> dict[str, int]:
        """A size per symbol for tracing: all different, and neither 0 nor 1, on which exporters specialise."""
        sizes: dict[str, int] = {}
        for index, (name, bounds) in enumerate(self.ranges.items()):
            sizes[name] = bounds.example if bounds.example is not None else max(min(3 + index, bounds.max), bounds.min)
        return sizes

    def sizes_at(self, batch_rows: int) -> dict[str, int]:
        """Example sizes with ``batch_rows`` rows; the example's own where no dimension counts rows."""
        return self.example_sizes() | ({self.batch: batch_rows} if self.batch else {})

    def rows(self, sizes: Sizes) -> int:
        """How many rows a call with ``sizes`` answers; 1 where no dimension counts rows."""
        return sizes[self.batch] if self.batch else 1

    def example(self, sizes: Sizes, seed: int) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs of the given sizes, drawn from ``seed``: normal floats, integers between ``low`` and ``high``."""
        return {spec.name: _draw(spec, sizes, seed) for spec in self.inputs}

    def with_outputs(self, outputs: tuple[TensorSpec, ...]) -> Signature:
        """The same contract with its outputs known."""
        return replace(self, outputs=outputs, output_names=tuple(spec.name for spec in outputs))

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
        sizes: dict[str, int] = {}
        for spec, array in zip(self.inputs, arrays, strict=True):
            _check(spec, array, sizes)
        for symbol, size in sizes.items():
            if size not in self.ranges[symbol]:
                bounds = self.ranges[symbol]
                raise ContractError(f"{symbol!r} must lie in [{bounds.min}, {bounds.max}], got {size}")
        return sizes

    def check_outputs(self, arrays: Sequence[Array], sizes: Sizes) -> None:
        """Check what a backend returned against the outputs at ``sizes``.

        Raises:
            ContractError: another count, dtype, rank or size; a frozen dynamic dimension is named.
        """
        if len(arrays) != len(self.outputs):
            raise ContractError(f"outputs must be {list(self.output_names)}, got {len(arrays)} of them")
        for spec, array in zip(self.outputs, arrays, strict=True):
            _check(spec, array, dict(sizes))


def _check(spec: TensorSpec, array: Array, sizes: dict[str, int]) -> None:
    """Check one array, adding the symbols that it fixes to ``sizes``; a ``?`` is left to the comparison."""
    if dtype_name(array) != spec.dtype:
        raise ContractError(f"{spec.name} must be {spec.dtype}, got {dtype_name(array)}")
    shape = tuple(array.shape)
    if len(shape) != len(spec.shape):
        raise ContractError(f"{spec.name} must have shape {list(spec.shape)}, got {list(shape)}")
    for index, (expected, size) in enumerate(zip(spec.shape, shape, strict=True)):
        if isinstance(expected, str):
            if expected == "?":
                continue
            expected_size = sizes.setdefault(expected, size)
            symbol = f" ({expected!r})"
        else:
            expected_size, symbol = expected, ""
        if size != expected_size:
            raise ContractError(f"{spec.name} must have size {expected_size} in dimension {index}{symbol}, got {size}")


def _draw(spec: TensorSpec, sizes: Sizes, seed: int) -> np.ndarray[Any, Any]:
    shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape)
    generator = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    if spec.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if spec.dtype.startswith(("int", "uint")):
        low, high = int(spec.low or 0), int(1 if spec.high is None else spec.high)
        return generator.integers(low, high, shape, endpoint=True).astype(spec.dtype)
    if spec.low is not None and spec.high is not None:
        return generator.uniform(spec.low, spec.high, shape).astype(spec.dtype)
    values = generator.standard_normal(shape)
    floor, ceiling = -np.inf if spec.low is None else spec.low, np.inf if spec.high is None else spec.high
    return values.clip(floor, ceiling).astype(spec.dtype)
