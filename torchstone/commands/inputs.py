"""Example calls from files: ``.npz``, ``.npy``, ``.safetensors``, ``.pt``. Nothing is unpickled but plain tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from export.arrays import to_torch
from export.errors import UserError

_POSITIONAL = re.compile(r"arr_(\d+)")
"""What ``np.savez`` calls arrays that were given to it without names."""


def read_calls(file: Path) -> list[Any]:
    """The example calls in a file, as ``torchstone.check`` takes them: a tensor, a tuple, or a mapping by parameter.

    Names such as ``cache.0.key`` are nested by path. A list in a ``.pt`` file holds several calls.

    Raises:
        UserError: the file is missing, of another kind, damaged, or holds no tensors.
    """
    if file.suffix not in _READERS:
        raise UserError(f"--inputs must be files that end with {', '.join(_READERS)}, got {file}")
    if not file.is_file():
        raise UserError(f"there is no file {file}: --inputs takes example calls, such as numpy.savez('real.npz', x=x)")
    try:
        example = _READERS[file.suffix](file)
    except UserError:
        raise
    except Exception as error:  # each library has errors of its own for a damaged file
        why = str(error).partition("\n")[0]
        raise UserError(f"{file} cannot be read: {why}. It must hold plain arrays, and no Python objects") from error
    if isinstance(example, Mapping | tuple | list) and not len(example):
        raise UserError(f"{file} holds no tensors: write one for each parameter of forward")
    return example if isinstance(example, list) else [example]


def nested(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """``{"cache.0.key": t}`` as ``{"cache": ({"key": t},)}``: what is numbered from 0 on becomes a tuple.

    Raises:
        UserError: a name that is both a tensor and a container of tensors.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        top, _, rest = name.partition(".")
        groups.setdefault(top, {})[rest] = tensor
    return {top: _branch(top, parts) for top, parts in groups.items()}


def _branch(name: str, parts: dict[str, Any]) -> Any:
    if set(parts) == {""}:
        return parts[""]
    if "" in parts:
        raise UserError(f"{name!r} is a tensor, and {name}.{next(filter(None, parts))} a part of it: rename either")
    branches = nested(parts)
    numbers = [str(index) for index in range(len(branches))]
    return tuple(branches[number] for number in numbers) if set(branches) == set(numbers) else branches


def _numpy(file: Path) -> Any:
    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return _tensor(file.name, loaded)
    with loaded:
        arrays = {name: _tensor(name, loaded[name]) for name in loaded.files}
    numbers = {int(match[1]): name for name in arrays if (match := _POSITIONAL.fullmatch(name))}
    if arrays and sorted(numbers) == [*range(len(arrays))]:
        return tuple(arrays[numbers[index]] for index in range(len(arrays)))
    return nested(arrays)


def _tensor(name: str, array: np.ndarray[Any, Any]) -> torch.Tensor:
    try:
        return to_torch(array)
    except TypeError as error:
        raise UserError(f"{name} must hold numbers or booleans, got the dtype {array.dtype}") from error


def _safetensors(file: Path) -> Any:
    return nested(load_file(file))


def _torch(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _numpy, ".npy": _numpy, ".safetensors": _safetensors, ".pt": _torch,
}  # fmt: skip
