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

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from export.arrays import Array, dtype_name, numpy_dtype
from export.errors import ContractError, UserError
from export.record import OMITTED
from export.sizes import Sizes, check_expression, size_of, symbols_of

_NAME = re.compile(r"\w[\w.]*")
"""Files are named after tensors: none is hidden, or leads up."""
DTYPES = (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool",
)  # fmt: skip
Draw = Literal["auto", "uniform", "prefix"]
Constant = bool | int | float | str | None


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
    """Whether the model takes this input as ``forward(..., name=tensor)`` although it could be positional."""
    draw: Draw = field(default="auto", metadata=OMITTED)
    """How an example of integers or booleans is drawn: each value for itself (``uniform``), or as a mask, ones up to
    some length and then zeros along the last dimension (``prefix``); ``auto``: as a mask where only 0 and 1 are legal.
    """

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(f"TensorSpec.name must be letters, digits, '_' and '.', no '.' first, got {self.name!r}")
        if self.dtype.startswith("complex"):
            raise UserError(
                f"{self.name}: runtimes take no complex numbers, got {self.dtype!r}: hand over pairs of real ones "
                "(torch.view_as_real, inside torch.view_as_complex)"
            )
        if self.dtype not in DTYPES:
            raise UserError(f"{self.name}: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if any(isinstance(dim, int) and dim < 0 for dim in self.shape):
            raise UserError(f"{self.name}: static sizes must be >= 0, got {self.shape}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UserError(f"{self.name}: low must be <= high, got {self.low} and {self.high}")
        for dim in self.shape:
            if isinstance(dim, str):
                check_expression(dim)

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and largest value of an example; for floats infinite where nothing is declared."""
        if self.dtype == "bool":
            return 0, 1
        if self.dtype.startswith(("int", "uint")):
            return self.low or 0, 1 if self.high is None else self.high
        return -np.inf if self.low is None else self.low, np.inf if self.high is None else self.high

    @property
    def is_mask(self) -> bool:
        """Whether an example is drawn as a mask: ones up to some length, then zeros."""
        known = self.dtype == "bool" or (self.dtype.startswith(("int", "uint")) and self.bounds == (0, 1))
        return self.draw == "prefix" or (self.draw == "auto" and known and len(self.shape) > 1)


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

    def example(self, sizes: Sizes, seed: int) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs of the given sizes, drawn from ``seed``: normal floats, integers between ``low`` and ``high``."""
        return {spec.name: np.asarray(_draw(spec, sizes, seed)) for spec in self.inputs}

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
        sizes: dict[str, int] = {}
        for spec, array in zip(self.inputs, arrays, strict=True):
            _check(spec, array, sizes)
        for symbol, size in sizes.items():
            if size not in self.ranges[symbol]:
                bounds = self.ranges[symbol]
                raise ContractError(f"{symbol!r} must lie in {bounds.summary}, got {size}")
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


def shape_of(spec: TensorSpec, sizes: Sizes) -> tuple[int, ...]:
    """The shape of an input at ``sizes``."""
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape)


def _check(spec: TensorSpec, array: Array, sizes: dict[str, int]) -> None:
    """Check one array, adding the symbols that it fixes to ``sizes``; a ``?`` is left to the comparison."""
    if dtype_name(array) != spec.dtype:
        raise ContractError(f"{spec.name} must be {spec.dtype}, got {dtype_name(array)}")
    shape = tuple(array.shape)
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


def _draw(spec: TensorSpec, sizes: Sizes, seed: int) -> np.ndarray[Any, Any]:
    shape = shape_of(spec, sizes)
    generator = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    low, high = spec.bounds
    if spec.is_mask:
        return _prefix(shape, generator).astype(spec.dtype)
    if spec.dtype == "bool":
        return np.asarray(generator.integers(0, 2, shape)).astype(bool)
    if spec.dtype.startswith(("int", "uint")):
        return np.asarray(generator.integers(int(low), int(high), shape, endpoint=True)).astype(spec.dtype)
    if spec.low is not None and spec.high is not None:
        return np.asarray(generator.uniform(low, high, shape)).astype(numpy_dtype(spec.dtype))
    return np.asarray(generator.standard_normal(shape)).clip(low, high).astype(numpy_dtype(spec.dtype))


def _prefix(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Ones up to a length of at least 1, drawn anew for every row, then zeros: no row of a mask sees nothing."""
    if not shape:
        return np.ones(shape, np.int64)
    lengths = generator.integers(1, max(shape[-1], 1), shape[:-1], endpoint=True)
    return (np.arange(shape[-1]) < lengths[..., None]).astype(np.int64)
