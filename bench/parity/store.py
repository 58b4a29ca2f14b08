"""Tensors of the cases on disk: one safetensors file per case, so that no more than one case is ever in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from bench.parity.cases import Tensors
from export.arrays import Array, to_numpy


def case_file(folder: Path, index: int) -> Path:
    """Where the tensors of one case lie."""
    return folder / f"{index:04d}.safetensors"


def save_case(folder: Path, index: int, tensors: Mapping[str, Array]) -> None:
    """Write the tensors of one case by name."""
    save_file(
        {name: np.asarray(to_numpy(array), order="C") for name, array in tensors.items()}, case_file(folder, index)
    )


def load_case(folder: Path, index: int, names: Iterable[str]) -> Tensors:
    """Read the named tensors of one case."""
    with safe_open(case_file(folder, index), framework="numpy") as file:
        return {name: file.get_tensor(name) for name in names}
