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


def in_parts(tensors: Mapping[str, torch.Tensor], training: Training) -> dict[str, DTensor]:
    """Those of a training's tensors that are in parts.

    Raises:
        UserError: the optimizer's are in other parts than its parameters.
    """
    sharded = {name: tensor for name, tensor in tensors.items() if is_part(tensor)}
    counterpart = like(training)
    for name, tensor in sharded.items():
        parameter = counterpart(name)
        if tensor.shape != parameter.shape or tensor.placements != getattr(parameter, "placements", None):
            raise UserError(
                f"{type(training.optimizer).__name__} keeps {name.rpartition('.')[2]!r} of shape {tuple(tensor.shape)} "
                f"for a parameter of shape {tuple(parameter.shape)}, which --train.sharded cannot save in parts: take "
                "an optimizer such as adamw, or leave --train.sharded out"
            )
    return sharded
