"""Tensors as safetensors, and weights from them; it keeps tensors alone, not the versions that PyTorch's files keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from export.errors import UserError
from export.files import write_atomically
from export.record import sha256


def take_up(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load tensors that a module of the same code wrote.

    A module may read its tensors by the version of its layout, and refuse them without one: it is this code's own.

    Raises:
        RuntimeError: the tensors are not those of this module.
    """
    state: OrderedDict[str, torch.Tensor] = OrderedDict(tensors)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Safetensors, atomically."""
    write_atomically(path, packed(tensors))


def packed(tensors: dict[str, torch.Tensor]) -> bytes:
    """As safetensors; shared and strided tensors are stored as the values they show.

    Raises:
        UserError: a sparse one.
    """
    refuse_sparse(tensors)
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def refuse_sparse(tensors: Mapping[str, torch.Tensor]) -> None:
    """Weights and buffers are kept as values in a row.

    Raises:
        UserError: one is sparse, with its name.
    """
    if sparse := next((name for name, tensor in tensors.items() if tensor.layout != torch.strided), None):
        raise UserError(
            f"the model's tensor {sparse!r} is sparse ({tensors[sparse].layout}), which neither checkpoints nor "
            "exporters keep: register it as indices and values, or dense, and multiply by that"
        )


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and values, hex."""
    return sha256(packed({"tensor": tensor}))
