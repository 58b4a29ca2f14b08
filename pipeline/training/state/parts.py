"""The parts of a sharded training on disk, by ``torch.distributed.checkpoint``: each process writes and reads its own.

They are safetensors, PyTorch's form for Hugging Face, and not its own form, whose index is a pickle. Any number of
processes reads what another number wrote.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from export.errors import UserError
from export.files import FileDigest, digest_files
from pipeline.training.distributed import World
from pipeline.training.sharding import is_part
from pipeline.training.state.training import Training

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_NOWHERE = torch.empty(0)
"""Stands for what is no part of the module, such as the states of random generators."""


def save_parts(folder: Path, tensors: Mapping[str, torch.Tensor], world: World) -> tuple[FileDigest, ...]:
    """Write the parts of these tensors, by all processes at once; their files, as ``folder``'s parent sees them.

    Raises:
        OSError: a file cannot be written.
    """
    if not tensors:
        return ()
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    if world.writes:
        shutil.rmtree(folder, ignore_errors=True)  # a save that was killed, perhaps of more processes
    world.first(None)
    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error
    paths = sorted(folder.iterdir())
    shares = world.all(digest_files(folder.parent, paths[world.rank :: world.size]))
    return tuple(file for share in shares for file in share)


def load_parts(folder: Path, like: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
    """This process's part of every tensor that lies there; ``like`` gives one of the same shape in the same parts."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    stored: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty_like(like(name), dtype=each.properties.dtype) for name, each in stored.items()}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # a process alone is told that it is
        load(tensors, storage_reader=reader)
    return tensors


def like(training: Training) -> Callable[[str], torch.Tensor]:
    """By a saved tensor's name, the tensor of the training whose shape and parts it has."""
    parameters: list[torch.Tensor] = [each for group in training.optimizer.param_groups for each in group["params"]]
    model: Mapping[str, torch.Tensor] = training.module.state_dict()
    average = {} if training.average is None else training.average.state_dict()

    def like_it(name: str) -> torch.Tensor:
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            return parameters[int(rest.partition(".")[0])]
        return average[rest] if kind == "average" else model.get(rest, _NOWHERE)

    return like_it


def try_in_parts(optimizer: torch.optim.Optimizer) -> None:
    """A step of an optimizer of this kind on a small parameter in parts, before hours are spent on large ones; none
    where its own are whole.

    Raises:
        UserError: PyTorch has no form of it for parameters in parts, or what it keeps is in other parts than those.
    """
    group = optimizer.param_groups[0]
    like_it = group["params"][0]
    if not is_part(like_it):
        return
    from torch.distributed.tensor import distribute_tensor

    mesh = like_it.device_mesh
    whole = torch.ones(2 * mesh.size(), 2, dtype=like_it.dtype, device=like_it.device)
    small = nn.Parameter(distribute_tensor(whole, mesh, like_it.placements))
    small.grad = torch.zeros_like(small)
    kind: Any = type(optimizer)
    try:
        trial: torch.optim.Optimizer = kind([{**group, "params": [small]}])
    except TypeError:  # one of the user's own, that wants more: it is held to the same when it is saved
        return
    try:
        trial.step()
    except RuntimeError as error:
        raise UserError(
            f"--train.sharded does not go with {kind.__name__}: {str(error).partition(chr(10))[0]}: take an optimizer "
            "such as adamw, or leave --train.sharded out"
        ) from error
    for name, slot in trial.state[small].items():
        if is_part(slot):
            _check(name, slot, small, trial)


def _check(name: str, slot: DTensor, parameter: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    if slot.shape != parameter.shape or slot.placements != getattr(parameter, "placements", None):
        raise UserError(
            f"{type(optimizer).__name__} keeps {name!r} of shape {tuple(slot.shape)} for a parameter of shape "
            f"{tuple(parameter.shape)}, which --train.sharded cannot save in parts: take an optimizer such as adamw, "
            "or leave --train.sharded out"
        )


def in_parts(tensors: Mapping[str, torch.Tensor], training: Training) -> dict[str, DTensor]:
    """Those of a training's tensors that are in parts.

    Raises:
        UserError: the optimizer's are in other parts than its parameters.
    """
    sharded = {name: tensor for name, tensor in tensors.items() if is_part(tensor)}
    counterpart = like(training)
    for name, tensor in sharded.items():
        _check(name.rpartition(".")[2], tensor, counterpart(name), training.optimizer)
    return sharded
