"""The state that an interrupted training goes on from: everything the next epoch depends on, without pickle.

Tensors (weights, the best weights so far, the optimizer's, the random generators') lie in one safetensors file per
save; a record beside it is replaced last and names the one it vouches for, so that a kill between the two loses
nothing. One flipped bit would train other weights without a word: both files are under digests.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load, save
from torch import nn

from export.device import Device
from export.errors import RecordError, UserError
from export.files import FileDigest, write_atomically
from export.record import Record, key_of, read, sha256, write
from pipeline.training.weights import take_up

_TENSORS, _RECORD = "state.safetensors", "state.json"


@dataclass
class Counters:
    """What the loop itself remembers between epochs."""

    epoch: int = 0
    """Epochs done."""
    kept_epoch: int = 0
    best_loss: float | None = None
    train_loss: float = float("nan")
    lines: list[str] = field(default_factory=list)
    """Metrics of every epoch so far, one JSON document each."""


@dataclass(frozen=True, kw_only=True)
class SavedState(Record):
    """``state.json``: what is not a tensor, as JSON, and the file of those that are."""

    SCHEMA: ClassVar[str] = "torchstone.state/1"

    fields: dict[str, Any]
    """Counters, scalars and groups of the optimizer, the states of Python's and NumPy's random generators."""
    fields_sha256: str
    files: tuple[FileDigest, ...]


def save_state(
    folder: Path,
    where: Device,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, torch.Tensor],
    counters: Counters,
) -> None:
    """Save everything, then remove the save before it."""
    state = optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    scalars: dict[str, Any] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars[f"{index}.{name}"] = value
    tensors["rng.torch"] = torch.get_rng_state()
    if (state_of_device := where.random_state()) is not None:
        tensors["rng.device"] = state_of_device
    name = f"{counters.epoch}-{_TENSORS}"
    values = {
        **vars(counters),
        "scalars": scalars,
        "groups": state["param_groups"],
        "random": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
    }
    fields = json.loads(json.dumps(values, default=_plain))
    data = _packed(tensors)
    write_atomically(folder / name, data)
    file = FileDigest(path=name, size_bytes=len(data), sha256=sha256(data))
    write(folder / _RECORD, SavedState(fields=fields, fields_sha256=key_of(fields=fields), files=(file,)))
    for stale in folder.glob(f"*-{_TENSORS}"):
        if stale.name != name:
            stale.unlink()


def load_state(
    folder: Path, where: Device, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Counters, dict[str, torch.Tensor]] | None:
    """Take up a saved state: the counters and the best weights; None if there is none.

    Raises:
        RecordError: it is damaged; nothing of it was taken up.
    """
    path = folder / _RECORD
    if not path.exists():
        return None
    text, tensors = _verified(folder, read(SavedState, path))
    tensors = {name: tensor.to(where.torch_name) for name, tensor in tensors.items()}
    take_up(module, _under("model.", tensors))
    slots: dict[int, dict[str, Any]] = {}
    for name, value in (_under("optimizer.", tensors) | text["scalars"]).items():
        index, _, slot = name.partition(".")
        # Optimizers keep the step on the host, whatever the device of the weights.
        on_host = slot == "step" and isinstance(value, torch.Tensor)
        slots.setdefault(int(index), {})[slot] = value.cpu() if on_host else value
    optimizer.load_state_dict({"state": slots, "param_groups": text["groups"]})
    torch.set_rng_state(tensors["rng.torch"].cpu())
    if "rng.device" in tensors:
        where.restore_random_state(tensors["rng.device"])
    version, internal, gauss = text["random"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = text["numpy"]
    numpy_state["state"]["key"] = np.asarray(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    counters = Counters(**{name: text[name] for name in vars(Counters())})
    return counters, _under("best.", tensors)


def _verified(folder: Path, saved: SavedState) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Both halves of a state, the tensors from the very bytes that were hashed."""
    (file,) = saved.files
    try:
        data = (folder / file.path).read_bytes()
    except OSError as error:
        raise RecordError(f"{folder / file.path} cannot be read: {error.strerror}") from error
    if sha256(data) != file.sha256 or key_of(fields=saved.fields) != saved.fields_sha256:
        raise RecordError(f"{folder / file.path} and {_RECORD} are not what was saved")
    return saved.fields, load(data)


def forget_state(folder: Path) -> None:
    """Remove what the training no longer needs once its checkpoint is written, or cannot use."""
    for leftover in [folder / _RECORD, *folder.glob(f"*-{_TENSORS}")]:
        leftover.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Safetensors, atomically."""
    write_atomically(path, _packed(tensors))


def _packed(tensors: dict[str, torch.Tensor]) -> bytes:
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
    return sha256(_packed({"tensor": tensor}))


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in the optimizer's state is neither a number nor a tensor")
