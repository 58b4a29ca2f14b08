"""The inputs of the parity check: one case per batch size, and per further size of every other dynamic dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from export.arrays import Array, to_numpy
from export.signature import Signature, TensorSpec

Tensors = dict[str, np.ndarray[Any, Any]]
_NOISE_OF_DEVIATION = 0.1


@dataclass(frozen=True, kw_only=True)
class ParitySpec:
    """How parity is judged; bench/parity/report.py says where the thresholds come from."""

    batch_rows: tuple[int, ...] = (1, 2, 7, 32, 257)
    """Rows per call; sizes outside the declared range are left out."""
    max_rms_ratio: float = 2.0
    """Largest RMS error over all cases, as a multiple of eager float32's own."""
    max_peak_ratio: float = 4.0
    """Largest single error, as a multiple of eager float32's own largest."""
    allow_no_reference: bool = False
    """Whether a model that cannot run in float64 may ship without this check."""

    def __post_init__(self) -> None:
        if not self.batch_rows or min(self.batch_rows) < 0:
            raise ValueError(f"parity.batch_rows must be sizes >= 0, got {self.batch_rows}")
        if not (self.max_rms_ratio >= 1 and self.max_peak_ratio >= 1):
            raise ValueError(
                f"parity ratios must be >= 1 (eager itself has 1), got {self.max_rms_ratio} and {self.max_peak_ratio}"
            )


def case_sizes(signature: Signature, batch_rows: tuple[int, ...]) -> tuple[dict[str, int], ...]:
    """The sizes of each case: every batch size, then every other symbol at its smallest and at another size."""
    example = signature.example_sizes()
    rows = [n for n in batch_rows if n in signature.ranges[signature.batch]] if signature.batch else [0]
    cases = [signature.sizes_at(n) for n in rows] or [example]
    for name, bounds in signature.ranges.items():
        if name != signature.batch:
            others = {bounds.min, min(2 * example[name] + 1, bounds.max)} - {example[name]}
            cases += [example | {name: size} for size in sorted(others)]
    return tuple(cases)


def case_inputs(signature: Signature, sizes: Mapping[str, int], samples: Tensors, seed: int) -> Tensors:
    """Inputs of ``sizes``: real rows first, then real rows with noise; drawn from the signature where none fit.

    ``samples`` holds rows of real inputs by name, each ``(rows, ...)``; it may be empty.
    """
    drawn = signature.example(sizes, seed)
    batch = signature.batch
    if batch is None:
        return drawn
    rows_count = min((len(rows) for rows in samples.values()), default=0)
    indices = np.arange(sizes[batch]) % max(rows_count, 1)
    generator = np.random.default_rng([seed, sizes[batch]])
    return {
        spec.name: _from_real(spec, samples[spec.name], indices, generator, batch)
        if rows_count and _fits(spec, samples.get(spec.name), drawn[spec.name], batch)
        else drawn[spec.name]
        for spec in signature.inputs
    }


def save_cases(path: Path, cases: list[Mapping[str, Array]]) -> None:
    """Write tensors of every case, by case number and name, as safetensors."""
    save_file(
        {f"{i}/{name}": np.ascontiguousarray(to_numpy(a)) for i, case in enumerate(cases) for name, a in case.items()},
        path,
    )


def load_cases(path: Path, names: tuple[str, ...], cases_count: int) -> Iterator[Tensors]:
    """Read the named tensors back, one case at a time."""
    with safe_open(path, framework="numpy") as file:
        for index in range(cases_count):
            yield {name: file.get_tensor(f"{index}/{name}") for name in names}


def _fits(spec: TensorSpec, rows: np.ndarray[Any, Any] | None, drawn: np.ndarray[Any, Any], batch: str) -> bool:
    """Whether real rows have the dtype and the sizes that this case needs."""
    return (
        rows is not None
        and spec.shape[:1] == (batch,)
        and rows.dtype == drawn.dtype
        and rows.shape[1:] == drawn.shape[1:]
    )


def _from_real(
    spec: TensorSpec,
    rows: np.ndarray[Any, Any],
    indices: np.ndarray[Any, Any],
    generator: np.random.Generator,
    batch: str,
) -> np.ndarray[Any, Any]:
    taken = rows[indices]
    if np.issubdtype(rows.dtype, np.floating) and len(taken) > len(rows):
        noise = generator.standard_normal(taken[len(rows) :].shape) * (_NOISE_OF_DEVIATION * float(rows.std()))
        taken[len(rows) :] += noise.astype(rows.dtype)
        low, high = -np.inf if spec.low is None else spec.low, np.inf if spec.high is None else spec.high
        taken = taken.clip(low, high)
    return np.ascontiguousarray(taken)
