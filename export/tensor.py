"""One named tensor of a signature: its dtype, its symbolic shape, and how an example of it is drawn."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from export.arrays import dtype_name, numpy_dtype, to_numpy
from export.errors import UserError
from export.record import OMITTED
from export.sizes import UNKNOWN, Sizes, check_expression, size_of, symbols_of

_NAME = re.compile(r"\w[\w.]*")
"""Files are named after tensors: none is hidden, or leads up."""
DTYPES = (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool",
)  # fmt: skip
_WAYS = ("auto", "uniform", "prefix")
if TYPE_CHECKING:
    import torch

    DrawFunction: TypeAlias = Callable[[dict[str, int], torch.Generator], torch.Tensor | Mapping[str, torch.Tensor]]
    Draw: TypeAlias = Literal["auto", "uniform", "prefix"] | DrawFunction | str
else:
    Draw = str  # what a record holds of a function: its name

_functions: dict[str, DrawFunction] = {}
"""What names of functions stand for, in a process that has loaded their recipe. None is ever imported by its name,
which may come out of anybody's file."""


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor: ``shape`` holds a number, or a symbol's name, per dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: float | str | None = None
    """Smallest value an example draws; for integers 0 if not given, and they may name symbols, as ``high``."""
    high: float | str | None = None
    """Largest value an example draws (inclusive); for integers 1 if not given. Integers that point into another tensor
    are bounded by its size, an expression over the symbols: ``high="nodes - 1"``."""
    keyword: bool = False
    """Whether the model takes this input as ``forward(..., name=tensor)`` although it could be positional."""
    draw: Draw = field(default="auto", metadata=OMITTED)
    """How an example of integers or booleans is drawn: each value for itself (``uniform``), or as a mask, ones up to
    some length and then zeros along the last dimension (``prefix``); ``auto``: as a mask where only 0 and 1 are legal.

    Values that belong together (sorted ids, a permutation, a positive definite matrix) are drawn by a function,
    ``function(sizes, generator)``: the whole tensor of a call at ``sizes``, all its random numbers from the
    ``torch.Generator``. One that draws several inputs together (the ends of a graph's edges) stands in the spec of each
    of them, and returns a mapping by their names. It stands at the top of a module; records hold its name,
    ``module:function``.
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
        self._check_bounds()
        for dim in self.shape:
            if isinstance(dim, str):
                check_expression(dim)
        if callable(self.draw):
            object.__setattr__(self, "draw", _registered(self.draw, self.name))
        elif self.draw not in _WAYS and not self.by_function:
            raise UserError(f"{self.name}: draw must be a function or one of {', '.join(_WAYS)}, got {self.draw!r}")

    def _check_bounds(self) -> None:
        for bound in (self.low, self.high):
            if isinstance(bound, str):
                if not self.is_integer:
                    raise UserError(f"{self.name}: only integers are bounded by sizes, got {bound!r} for {self.dtype}")
                check_expression(bound)
                if bound == UNKNOWN:
                    raise UserError(f"{self.name}: low and high must be numbers or sizes, got {bound!r}")
        if isinstance(self.low, int | float) and isinstance(self.high, int | float) and self.low > self.high:
            raise UserError(f"{self.name}: low must be <= high, got {self.low} and {self.high}")

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers; a boolean is none."""
        return self.dtype.startswith(("int", "uint"))

    def bounds(self, sizes: Sizes) -> tuple[float, float]:
        """The smallest and largest value of an example at ``sizes``; for floats infinite where nothing is declared."""
        if self.dtype == "bool":
            return 0, 1
        least, most = (0.0, 1.0) if self.is_integer else (-np.inf, np.inf)
        return _bound(self.low, least, sizes), _bound(self.high, most, sizes)

    def declared_bounds(self, sizes: Sizes) -> tuple[float, float]:
        """The bounds that somebody declared, at ``sizes``; infinite where nobody did: what a caller is held to."""
        return _bound(self.low, -np.inf, sizes), _bound(self.high, np.inf, sizes)

    @property
    def bounded_by(self) -> set[str]:
        """The symbols that the values depend on."""
        return {symbol for bound in (self.low, self.high) if isinstance(bound, str) for symbol in symbols_of(bound)}

    @property
    def by_function(self) -> bool:
        """Whether a function draws it, a whole call at a time."""
        return isinstance(self.draw, str) and ":" in self.draw

    @property
    def is_mask(self) -> bool:
        """Whether an example is drawn as a mask: ones up to some length, then zeros."""
        known = self.dtype == "bool" or (self.is_integer and (self.low or 0) == 0 and self.high in (None, 1))
        return self.draw == "prefix" or (self.draw == "auto" and known and len(self.shape) > 1)


def shape_of(spec: TensorSpec, sizes: Sizes) -> tuple[int, ...]:
    """The shape of an input at ``sizes``."""
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape)


def draw(spec: TensorSpec, sizes: Sizes, seed: int) -> np.ndarray[Any, Any]:
    """An example of a tensor at ``sizes``: normal floats, integers between ``low`` and ``high``; or what its function
    draws.

    Raises:
        UserError: no value is legal at these sizes; or the function is not at hand, raises, or draws something else.
    """
    return _by_function(spec, sizes, seed) if spec.by_function else np.asarray(_by_bounds(spec, sizes, seed))


def _by_bounds(spec: TensorSpec, sizes: Sizes, seed: int) -> Any:
    """An array; a plain number for a shape without dimensions."""
    shape = shape_of(spec, sizes)
    generator = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    low, high = spec.bounds(sizes)
    if low > high and 0 not in shape:
        raise UserError(
            f"{spec.name}: low must be <= high, got {low:g} and {high:g} at {dict(sizes)}: raise the least size"
        )
    if spec.is_mask:
        return _prefix(shape, generator).astype(spec.dtype)
    if spec.dtype == "bool":
        return np.asarray(generator.integers(0, 2, shape)).astype(bool)
    if spec.is_integer:
        return np.asarray(generator.integers(int(low), int(max(low, high)), shape, endpoint=True)).astype(spec.dtype)
    if spec.low is not None and spec.high is not None:
        return np.asarray(generator.uniform(low, high, shape)).astype(numpy_dtype(spec.dtype))
    return np.asarray(generator.standard_normal(shape)).clip(low, high).astype(numpy_dtype(spec.dtype))


def _bound(declared: float | str | None, default: float, sizes: Sizes) -> float:
    """A declared bound at ``sizes``."""
    if not isinstance(declared, str):
        return default if declared is None else declared
    size = size_of(declared, sizes)
    assert size is not None, f"{declared} depends on the call"
    return size


def _prefix(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Ones up to a length of at least 1, drawn anew for every row, then zeros: no row of a mask sees nothing."""
    if not shape:
        return np.ones(shape, np.int64)
    lengths = generator.integers(1, max(shape[-1], 1), shape[:-1], endpoint=True)
    return (np.arange(shape[-1]) < lengths[..., None]).astype(np.int64)


def _registered(function: DrawFunction, name: str) -> str:
    """``module:function``, by which other processes that load the recipe know the function, too."""
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not path.isidentifier() or getattr(sys.modules.get(str(module)), path, function) is not function:
        raise UserError(
            f"{name}: draw must be a function that stands at the top of a module, so that other processes know it by "
            f"its name, got {function!r}"
        )
    _functions[f"{module}:{path}"] = function
    return f"{module}:{path}"


def _by_function(spec: TensorSpec, sizes: Sizes, seed: int) -> np.ndarray[Any, Any]:
    where = f"{spec.name} at {', '.join(f'{symbol}={size}' for symbol, size in sizes.items())}"
    if (function := _functions.get(str(spec.draw))) is None:
        raise UserError(
            f"{where} is drawn by {spec.draw}, which this process does not have: draws are kept for the sizes in the "
            "recipe's bench.batch_rows, take one of them"
        )
    drawn = [_call(function, spec.name, where, sizes, seed) for _ in range(2)]
    shape, low, high = shape_of(spec, sizes), _bound(spec.low, -np.inf, sizes), _bound(spec.high, np.inf, sizes)
    kinds = [f"{dtype_name(array)}{list(array.shape)}" for array in drawn]
    if kinds[0] != (wanted := f"{spec.dtype}{list(shape)}"):
        raise UserError(f"{spec.draw} must draw {where} as {wanted}, got {kinds[0]}")
    array, again = drawn
    if array.tobytes() != again.tobytes():
        raise UserError(
            f"{spec.draw} draws {where} differently from the same generator: take every random number from it"
        )
    values = array.astype(np.float64)
    if (strange := values[~((low <= values) & (values <= high))]).size:
        raise UserError(f"{spec.draw} must draw {where} with values between {low:g} and {high:g}, got {strange[0]:g}")
    return array


def _generator(*key: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def _call(function: DrawFunction, name: str, where: str, sizes: Sizes, seed: int) -> np.ndarray[Any, Any]:
    """What a function draws for one input.

    Whether it draws several is seen from what it returns. Then all of them are of one generator; else each input has
    its own, so that two inputs by one function are not the same.
    """
    import torch

    try:
        drawn = function(dict(sizes), _generator(seed))
        if not isinstance(drawn, Mapping):
            drawn = function(dict(sizes), _generator(seed, zlib.crc32(name.encode())))
    except Exception as error:
        raise UserError(f"{where} cannot be drawn: {type(error).__name__}: {error}") from error
    if isinstance(drawn, Mapping):
        if name not in drawn:
            raise UserError(f"{where} must be among what its function draws, which is {', '.join(map(str, drawn))}")
        drawn = drawn[name]
    if not isinstance(drawn, torch.Tensor):
        raise UserError(f"{where} must be drawn as a tensor, got {type(drawn).__name__}")
    return np.ascontiguousarray(to_numpy(drawn))
