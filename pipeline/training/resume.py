"""The state that an interrupted training goes on from: everything the next step depends on, without pickle.

Tensors (weights, their average, the best so far, the optimizer's, the random generators') lie in one safetensors file
per save; a record beside it is replaced last and names the one it vouches for, so that a kill between the two loses
nothing. One flipped bit would train other weights without a word: both files are under digests. The order of rows and
the learning rate are functions of the step, and need no place here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load
from torch import nn
from torch.optim.swa_utils import AveragedModel

from export.device import Device
from export.errors import RecordError
from export.files import FileDigest, write_atomically
from export.record import Record, key_of, read, sha256, write
from pipeline.training.determinism import RandomState
from pipeline.training.distributed import World
from pipeline.training.weights import packed, take_up

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


def save_state(
    folder: Path,
    key: str,
    training: Training,
    position: Mapping[str, Any],
    generators: Sequence[tuple[RandomState, torch.Tensor | None]],
) -> None:
    """Save everything, then remove the save before it.

    ``position``: how far ``metrics.jsonl`` is written; ``generators``: of each process, the host's and its device's.
    """
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
    for rank, (of_host, of_device) in enumerate(generators):
        tensors |= {f"rng.torch.{rank}": of_host.torch} | (
            {} if of_device is None else {f"rng.device.{rank}": of_device}
        )
    name = f"{training.counters.step}-{_TENSORS}"
    values = {
        **vars(training.counters),
        "metrics": position,
        "scalars": scalars,
        "groups": state["param_groups"],
        "scaler": training.scaler.state_dict() if training.scaler else {},
        "random": [of_host.python for of_host, _ in generators],
        "numpy": [of_host.numpy for of_host, _ in generators],
    }
    fields = json.loads(json.dumps(values, default=_plain))
    data = packed(tensors)
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

    def restore(self, where: Device, training: Training, world: World) -> str | None:
        """Take it up; what is no longer exact, where it was saved by another number of processes."""
        tensors = {name: tensor.to(where.torch_name) for name, tensor in self.tensors.items()}
        take_up(training.module, _under("model.", tensors))
        if training.average is not None:
            training.average.load_state_dict(_under("average.", tensors))
        if training.scaler is not None:
            training.scaler.load_state_dict(self.fields["scaler"])
        _restore_optimizer(training.optimizer, self.fields, _under("optimizer.", tensors))
        saved_by = len(self.fields["random"])
        if world.rank < saved_by:
            _restore_generators(where, self.fields, tensors, world.rank)
        training.counters = Counters(**{name: self.fields[name] for name in vars(Counters())})
        training.best = _under("best.", tensors)
        if saved_by == world.size:
            return None
        return (
            f"the state was saved by {saved_by} process{'es' * (saved_by > 1)}, {world.size} go on: a step has the "
            "same rows, but sums are rounded in another order, and what the model draws is drawn otherwise"
        )


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


def _restore_generators(where: Device, fields: dict[str, Any], tensors: dict[str, torch.Tensor], rank: int) -> None:
    version, internal, gauss = fields["random"][rank]
    numpy_state = fields["numpy"][rank]
    numpy_state["state"]["key"] = np.asarray(numpy_state["state"]["key"], dtype=np.uint32)
    RandomState((version, tuple(internal), gauss), numpy_state, tensors[f"rng.torch.{rank}"].cpu()).restore()
    if (of_device := tensors.get(f"rng.device.{rank}")) is not None:
        where.restore_random_state(of_device)


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


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in the optimizer's state is neither a number nor a tensor")
