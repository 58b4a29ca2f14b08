"""The state that an interrupted training goes on from: everything the next step depends on, without pickle.

Tensors (weights, their average, the best so far, the optimizer's, the random generators') lie in one safetensors file
per save; a record beside it is replaced last and names the one it vouches for, so that a kill between the two loses
nothing. One flipped bit would train other weights without a word: both files are under digests. The order of rows and
the learning rate are functions of the step, and need no place here.
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
from torch.optim.swa_utils import AveragedModel

from export.device import Device
from export.errors import RecordError, UserError
from export.files import FileDigest, write_atomically
from export.record import Record, key_of, read, sha256, write
from pipeline.training.weights import take_up

_TENSORS, _RECORD = "state.safetensors", "state.json"


@dataclass
class Counters:
    """What the loop itself remembers between steps."""

    epoch: int = 0
    """Epochs done."""
    epoch_step: int = 0
    """Steps done of the epoch that is under way."""
    step: int = 0
    """Steps done in all."""
    epoch_loss: float = 0.0
    """Sum over the epoch's rows so far."""
    epoch_rows: int = 0
    skipped_steps: int = 0
    """Steps that float16's loss scaler left out."""
    kept_epoch: int = 0
    best_loss: float | None = None
    stale_epochs: int = 0
    """Epochs since the watched loss was at its best."""
    train_loss: float = float("nan")
    """The last whole epoch's."""


@dataclass(kw_only=True)
class Training:
    """What a state is the state of."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None = None
    scaler: torch.amp.GradScaler | None = None
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """The best weights so far, where those are to be kept."""
    counters: Counters = field(default_factory=Counters)


@dataclass(frozen=True, kw_only=True)
class SavedState(Record):
    """``state.json``: what is not a tensor, as JSON, and the file of those that are."""

    SCHEMA: ClassVar[str] = "torchstone.state/2"

    key: str
    """The stage's: of the recipe, its settings and data, our own code of it, the versions."""
    fields: dict[str, Any]
    """Counters, how far ``metrics.jsonl`` is written, scalars and groups of the optimizer, the loss scaler, the states
    of Python's and NumPy's random generators."""
    fields_sha256: str
    files: tuple[FileDigest, ...]


def save_state(folder: Path, where: Device, key: str, training: Training, position: Mapping[str, Any]) -> None:
    """Save everything, then remove the save before it; ``position``: how far ``metrics.jsonl`` is written."""
    state = training.optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in training.module.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in training.best.items()}
    if training.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in training.average.state_dict().items()}
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
    name = f"{training.counters.step}-{_TENSORS}"
    values = {
        **vars(training.counters),
        "metrics": position,
        "scalars": scalars,
        "groups": state["param_groups"],
        "scaler": training.scaler.state_dict() if training.scaler else {},
        "random": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
    }
    fields = json.loads(json.dumps(values, default=_plain))
    data = _packed(tensors)
    write_atomically(folder / name, data)
    file = FileDigest(path=name, size_bytes=len(data), sha256=sha256(data))
    write(folder / _RECORD, SavedState(key=key, fields=fields, fields_sha256=key_of(fields=fields), files=(file,)))
    for stale in folder.glob(f"*-{_TENSORS}"):
        if stale.name != name:
            stale.unlink()


@dataclass(frozen=True)
class State:
    """A saved state, verified and not yet taken up."""

    fields: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def position(self) -> Mapping[str, Any]:
        """How far ``metrics.jsonl`` was written."""
        return dict(self.fields["metrics"])

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.fields["step"])

    def restore(self, where: Device, training: Training) -> None:
        """Take it up."""
        tensors = {name: tensor.to(where.torch_name) for name, tensor in self.tensors.items()}
        take_up(training.module, _under("model.", tensors))
        if training.average is not None:
            training.average.load_state_dict(_under("average.", tensors))
        if training.scaler is not None:
            training.scaler.load_state_dict(self.fields["scaler"])
        _restore_optimizer(training.optimizer, self.fields, _under("optimizer.", tensors))
        _restore_generators(where, self.fields, tensors)
        training.counters = Counters(**{name: self.fields[name] for name in vars(Counters())})
        training.best = _under("best.", tensors)


def load_state(folder: Path, key: str) -> State | None:
    """The saved state; None if there is none.

    Raises:
        RecordError: it is damaged, or of another training.
    """
    path = folder / _RECORD
    if not path.exists():
        return None
    saved = read(SavedState, path)
    if saved.key != key:
        raise RecordError(f"{path} is of another recipe, other settings or another version ({saved.key[:12]})")
    return State(*_verified(folder, saved))


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, fields: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> None:
    slots: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | fields["scalars"]).items():
        index, _, slot = name.partition(".")
        # Optimizers keep the step on the host, whatever the device of the weights.
        on_host = slot == "step" and isinstance(value, torch.Tensor)
        slots.setdefault(int(index), {})[slot] = value.cpu() if on_host else value
    optimizer.load_state_dict({"state": slots, "param_groups": fields["groups"]})


def _restore_generators(where: Device, fields: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(tensors["rng.torch"].cpu())
    if "rng.device" in tensors:
        where.restore_random_state(tensors["rng.device"])
    version, internal, gauss = fields["random"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = fields["numpy"]
    numpy_state["state"]["key"] = np.asarray(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)


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
