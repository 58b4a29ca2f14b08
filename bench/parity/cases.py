"""The inputs of the parity check: real rows, every declared size, other values, extremes, NaN and Inf.

Rows come from a pool: real rows first, then real rows with noise (drawn from the signature where there are none). It is
made in blocks when asked for, and a smaller batch is always the beginning of a larger one, so that the same rows can be
compared across batches. What a function of the recipe's draws is drawn for each call as a whole: its rows may belong
together. Constants of the extremes follow the literature on what exporters get wrong (docs/parity.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.parity.changes import EXTREMES, NON_FINITE, VALUES, changed
from bench.parity.spec import ParitySpec
from export.arrays import is_floating, numpy_dtype
from export.signature import Signature, TensorSpec
from export.tensor import draw, shape_of

Values = np.ndarray[Any, Any]
Tensors = dict[str, Values]
Group = Literal["calls", "rows", "sizes", "values", "extremes", "non-finite"]

_NOISE_OF_DEVIATION = 0.1
_BLOCK_ROWS = 64
_CHUNK_ROWS = 256
_CALLS_WITHOUT_BATCH = 32
_FEW_ROWS = 8
_ODD_SIZES = (3, 13, 31, 33)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call: which rows of the pool, at which sizes, changed how."""

    group: Group
    name: str
    """``rows 0 to 255``, ``length=2``, ``zeros``."""
    sizes: dict[str, int]
    start: int = 0
    """The first row of the pool."""
    change: str | None = None
    """One of ``VALUES``, ``EXTREMES`` or ``NON_FINITE``."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Where rows come from. ``samples`` holds real rows of inputs by name, each ``(rows, ...)``; it may be empty.

    It may also hold what functions drew for some calls, as ``draws`` returns it, for processes that have no functions.
    """

    signature: Signature
    samples: Tensors
    seed: int

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of one call: those of the real rows where they fit the declared ranges, else the example's."""
        sizes = self.signature.example_sizes()
        for spec in self.signature.inputs:
            rows = self.samples.get(spec.name)
            if rows is None or rows.ndim != len(spec.shape):
                continue
            for dim, size in zip(spec.shape[1:], rows.shape[1:], strict=True):
                if isinstance(dim, str) and dim != self.signature.batch and size in self.signature.ranges[dim]:
                    sizes[dim] = size
        return sizes

    @property
    def real_rows_count(self) -> int:
        """Rows at the beginning of the pool that are real, in every input."""
        fitting = self._fitting()
        if self.signature.batch is None or len(fitting) < len(self.signature.inputs):
            return 0
        return min(len(self.samples[name]) for name in fitting)

    def call(self, batch_rows: int, start: int = 0) -> Tensors:
        """Inputs of an ordinary call: ``batch_rows`` rows from ``start`` on."""
        return self.inputs(Case(group="rows", name="call", sizes=self._sizes_of(batch_rows), start=start))

    def inputs(self, case: Case) -> Tensors:
        """The inputs of one case, in the signature's order."""
        batch = self.signature.batch
        if batch is None or any(case.sizes[name] != size for name, size in self.sizes.items() if name != batch):
            drawn = self._drawn(case.sizes, self._seed_of(case))
        else:
            drawn = self._rows(case.start, case.sizes[batch])
        for spec in self.whole:
            kept = self.samples.get(_draw_name(spec, case))
            drawn[spec.name] = draw(spec, case.sizes, self._seed_of(case)) if kept is None else kept
        return {
            spec.name: drawn[spec.name] if case.change is None else changed(spec, drawn[spec.name], case.change)
            for spec in self.signature.inputs
        }

    @property
    def whole(self) -> tuple[TensorSpec, ...]:
        """The inputs that functions draw, a call at a time; real rows go before."""
        fitting = self._fitting() if self.signature.has_draw_functions else set()
        return tuple(spec for spec in self.signature.inputs if spec.by_function and spec.name not in fitting)

    def draws(self, batch_rows: int, start: int) -> Tensors:
        """What functions draw for an ordinary call, by the names under which a pool finds it among its samples."""
        case = Case(group="rows", name="call", sizes=self._sizes_of(batch_rows), start=start)
        return {_draw_name(spec, case): draw(spec, case.sizes, self._seed_of(case)) for spec in self.whole}

    def _seed_of(self, case: Case) -> int:
        return self.seed + 1000 * case.start + sum(case.sizes.values())

    def _drawn(self, sizes: Mapping[str, int], seed: int) -> Tensors:
        """An example of all inputs but the whole ones."""
        whole = self.whole
        return {spec.name: draw(spec, sizes, seed) for spec in self.signature.inputs if spec not in whole}

    def _rows(self, start: int, count: int) -> Tensors:
        first = start // _BLOCK_ROWS
        blocks = [self._block(index) for index in range(first, (start + max(count, 1) - 1) // _BLOCK_ROWS + 1)]
        offset = start - first * _BLOCK_ROWS
        drawn = {
            spec.name: np.ascontiguousarray(
                np.concatenate([block[spec.name] for block in blocks])[offset : offset + count]
            )
            if self._has_rows(spec)
            else blocks[0][spec.name]
            for spec in self.signature.inputs
            if spec.name in blocks[0]
        }
        for spec in self.signature.inputs:
            if self.signature.batch in spec.bounded_by and spec.name in drawn:
                # Those of a larger call point past the end of this one.
                drawn[spec.name] = draw(spec, self._sizes_of(count), self.seed + start)
        return drawn

    def _sizes_of(self, batch_rows: int) -> dict[str, int]:
        """Sizes of an ordinary call of ``batch_rows`` rows."""
        return self.sizes | ({self.signature.batch: batch_rows} if self.signature.batch else {})

    def _block(self, index: int) -> Tensors:
        sizes = self._sizes_of(_BLOCK_ROWS)
        shared = self._drawn(sizes, self.seed)
        drawn = self._drawn(sizes, self.seed + index)
        fitting = self._fitting()
        for spec in self.signature.inputs:
            if spec.name in shared and not self._has_rows(spec):
                drawn[spec.name] = shared[spec.name]
            elif spec.name in fitting:
                drawn[spec.name] = _from_real(spec, self.samples[spec.name], index, self.seed)
        return drawn

    def _has_rows(self, spec: TensorSpec) -> bool:
        return bool(spec.shape) and spec.shape[0] == self.signature.batch

    def _fitting(self) -> set[str]:
        """Inputs whose real rows have the dtype and the sizes that a call needs."""
        sizes = self.sizes
        return {
            spec.name
            for spec in self.signature.inputs
            if (rows := self.samples.get(spec.name)) is not None
            and len(rows)
            and self._has_rows(spec)
            and rows.dtype == numpy_dtype(spec.dtype)
            and rows.shape[1:] == shape_of(spec, sizes)[1:]
        }


def plan(pool: Pool, spec: ParitySpec) -> tuple[Case, ...]:
    """Every case, in the order in which model and artifacts answer them: the three calls in a row come first."""
    signature, sizes, batch = pool.signature, pool.sizes, pool.signature.batch
    few = sizes if batch is None else sizes | {batch: signature.ranges[batch].fit(_FEW_ROWS)}
    step = few[batch] if batch else 1
    cases = [
        Case(group="calls", name="first call", sizes=few),
        Case(group="calls", name="second call, with other values", sizes=few, start=step),
        Case(group="calls", name="third call, with the first's values", sizes=few),
        *_rows(pool, spec),
        *_sizes(signature, sizes, spec.batch_rows),
    ]
    one_row = few if batch is None else few | {batch: signature.ranges[batch].fit(1)}
    if any(is_floating(numpy_dtype(tensor.dtype)) and not tensor.by_function for tensor in signature.inputs):
        cases += [
            Case(group="values", name=f"{name}{_at(at)}", sizes=at, start=step * (2 + index), change=name)
            for index, name in enumerate(VALUES)
            for at in ([few] if one_row == few else [few, one_row])
        ]
        cases += [Case(group="extremes", name=name, sizes=few, change=name) for name in EXTREMES]
        cases += [Case(group="non-finite", name=name, sizes=few, change=name) for name in NON_FINITE]
    return tuple(cases)


def _rows(pool: Pool, spec: ParitySpec) -> list[Case]:
    """The rows on which errors are measured: one chunk after the other; and their beginning in other batches."""
    signature, sizes, batch = pool.signature, pool.sizes, pool.signature.batch
    if batch is None:
        calls = min(spec.rows_count, _CALLS_WITHOUT_BATCH)
        return [Case(group="rows", name=f"call {index}", sizes=sizes, start=index) for index in range(calls)]
    chunk = signature.ranges[batch].fit(min(_CHUNK_ROWS, spec.rows_count))
    cases = [
        Case(group="rows", name=f"rows {start} to {start + chunk - 1}", sizes=sizes | {batch: chunk}, start=start)
        for start in range(0, spec.rows_count, chunk)
    ]
    wanted = [rows for rows in spec.batch_rows if rows in signature.ranges[batch] and rows != chunk]
    return cases + [Case(group="rows", name=f"{batch}={rows}", sizes=sizes | {batch: rows}) for rows in wanted]


def _sizes(signature: Signature, sizes: Mapping[str, int], batch_rows: tuple[int, ...]) -> list[Case]:
    """One dimension at a time at its ends and at odd sizes, all at once at their smallest, and several at 1."""
    cases = []
    for name, bounds in signature.ranges.items():
        odd = {
            bounds.fit(size * bounds.multiple)
            for size in _ODD_SIZES
            if bounds.min <= size * bounds.multiple <= bounds.max
        }
        tried = {*odd, bounds.min, bounds.max, bounds.fit(1)} - {sizes[name]}
        tried -= set(batch_rows) if name == signature.batch else set()
        cases += [Case(group="sizes", name=f"{name}={size}", sizes={**sizes, name: size}) for size in sorted(tried)]
    smallest = {name: bounds.min for name, bounds in signature.ranges.items()}
    if len(smallest) > 1:
        cases.append(Case(group="sizes", name="every dimension at its smallest", sizes=smallest))
    known = [sizes, *(case.sizes for case in cases)]
    ones = [several for several in signature.ones(sizes) if several not in known]
    return cases + [Case(group="sizes", name=_at(several).removeprefix(" at "), sizes=several) for several in ones]


def _draw_name(spec: TensorSpec, case: Case) -> str:
    """``ids@0:batch=32,length=16``; no input can be called so."""
    return f"{spec.name}@{case.start}:{','.join(f'{name}={size}' for name, size in case.sizes.items())}"


def _at(sizes: Mapping[str, int]) -> str:
    return f" at {', '.join(f'{name}={size}' for name, size in sizes.items())}" if sizes else ""


def _from_real(spec: TensorSpec, rows: Values, block: int, seed: int) -> Values:
    """One block of real rows; past the last of them they begin again, with noise if they are floats."""
    wanted = np.arange(block * _BLOCK_ROWS, (block + 1) * _BLOCK_ROWS)
    taken = rows[wanted % len(rows)].copy()
    repeated = wanted >= len(rows)
    if is_floating(rows.dtype) and repeated.any() and not spec.by_function:
        generator = np.random.default_rng([seed, block])
        deviation = float(rows.astype(np.float64).std())
        noise = generator.standard_normal(taken[repeated].shape) * (_NOISE_OF_DEVIATION * deviation)
        noisy = taken[repeated].astype(np.float64) + noise.astype(rows.dtype)
        taken[repeated] = noisy.clip(*spec.bounds({})).astype(rows.dtype)
    return taken
