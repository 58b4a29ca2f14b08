"""The state that an interrupted training goes on from: everything the next step depends on, without pickle.

Tensors (weights, their average, the best so far, the optimizer's, the random generators') lie in one safetensors file
per save, and those that no process has whole in one per process; a record beside them is replaced last and names those
it vouches for, so that a kill in between loses nothing. One flipped bit would train other weights without a word: all
files are under digests. The order of rows and the learning rate are functions of the step, and need no place here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load

from export.device import Device
from export.errors import RecordError, UserError
from export.files import FileDigest, verify_files, write_atomically
from export.record import Record, key_of, read, sha256, write
from pipeline.training.determinism import RandomState
from pipeline.training.distributed import World
from pipeline.training.sharding import placed
from pipeline.training.state.parts import in_parts, like, load_parts, save_parts
from pipeline.training.state.training import Counters, Training
from pipeline.training.watch.journal import check_lines
from pipeline.training.weights import packed, take_up

_TENSORS, _PARTS, _RECORD = "state.safetensors", "parts", "state.json"


@dataclass(frozen=True, kw_only=True)
class SavedState(Record):
    """``state.json``: what is not a tensor, as JSON, and the files of those that are."""

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
    world: World,
) -> None:
    """Save everything, then remove the save before it; every process must call this.

    ``position``: how far ``metrics.jsonl`` is written; ``generators``: of each process, the host's and its device's.

    Raises:
        UserError: the optimizer's state is in parts that are not those of its parameters.
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
    step = training.counters.step
    sharded = in_parts(tensors, training)
    parts = save_parts(folder / f"{step}-{_PARTS}", sharded, world)
    if not world.writes:
        return
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
    data = packed({name: tensor for name, tensor in tensors.items() if name not in sharded})
    file = FileDigest(path=f"{step}-{_TENSORS}", size_bytes=len(data), sha256=sha256(data))
    write_atomically(folder / file.path, data)
    saved = SavedState(key=key, fields=fields, fields_sha256=key_of(fields=fields), files=(file, *parts))
    write(folder / _RECORD, saved)
    _forget(folder, but=f"{step}-")


@dataclass(frozen=True)
class State:
    """A saved state, verified and not yet taken up."""

    fields: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    parts: Path | None
    """The folder of those that were saved in parts."""

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
        counterpart = like(training)
        tensors = {
            name: placed(tensor.to(where.torch_name), counterpart(name)) for name, tensor in self.tensors.items()
        }
        if self.parts is not None:
            tensors |= load_parts(self.parts, counterpart)
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


def usable_state(folder: Path, key: str, world: World, say: Callable[[str], None]) -> State | None:
    """The saved state; one that a process cannot use, or the figures up to it, is worth no more than none.

    Raises:
        UserError: the processes do not see the same files.
    """
    state, complaint = None, ""
    try:
        if (state := load_state(folder, key, world)) is not None:
            check_lines(folder, state.position)
    except RecordError as error:
        complaint = str(error)
    seen = world.all((None if state is None else state.step, complaint))
    if complaint := next((each for _, each in seen if each), ""):
        say(f"the saved state cannot be used, training begins anew: {complaint}")
        if world.writes:
            forget_state(folder)
        return None
    if len({step for step, _ in seen}) > 1:
        raise UserError(f"the processes see different states in {folder}: it must be a folder that all machines share")
    return state


def load_state(folder: Path, key: str, world: World) -> State | None:
    """The saved state; None if there is none. Of files in parts each process verifies its share.

    Raises:
        RecordError: it is damaged, or of another training.
    """
    path = folder / _RECORD
    if not path.exists():
        return None
    saved = read(SavedState, path)
    if saved.key != key:
        raise RecordError(f"{path} is of another recipe, other settings or another version ({saved.key[:12]})")
    whole, *parts = saved.files
    verify_files(folder, parts[world.rank :: world.size])
    return State(*_verified(folder, saved, whole), folder / Path(parts[0].path).parent if parts else None)


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


def _verified(folder: Path, saved: SavedState, file: FileDigest) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Both halves of a state, the tensors from the very bytes that were hashed."""
    try:
        data = (folder / file.path).read_bytes()
    except OSError as error:
        raise RecordError(f"{folder / file.path} cannot be read: {error.strerror}") from error
    if sha256(data) != file.sha256 or key_of(fields=saved.fields) != saved.fields_sha256:
        raise RecordError(f"{folder / file.path} and {_RECORD} are not what was saved")
    return saved.fields, load(data)


def forget_state(folder: Path) -> None:
    """Remove what the training no longer needs once its checkpoint is written, or cannot use."""
    (folder / _RECORD).unlink(missing_ok=True)
    _forget(folder)


def _forget(folder: Path, but: str | None = None) -> None:
    """Remove the tensors of every save, or of all whose names do not begin so."""
    for stale in [*folder.glob(f"*-{_TENSORS}"), *folder.glob(f"*-{_PARTS}")]:
        if but is not None and stale.name.startswith(but):
            continue
        if stale.is_dir():
            shutil.rmtree(stale)
        else:
            stale.unlink()


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in the optimizer's state is neither a number nor a tensor")
