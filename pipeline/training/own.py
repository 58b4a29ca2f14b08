"""A loop of the user's own in place of ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from export.device import Device
from export.errors import UserError
from pipeline.data import Data
from pipeline.training.watch.journal import Journal
from pipeline.training.watch.progress import Progress

OwnLoop = Callable[[nn.Module, Data, torch.device, Path, Progress], nn.Module]
"""``my_train(module, data, device, folder, progress)`` gets the module on its device, the recipe's data, a folder for
what the loop itself wants to go on from, which a killed run leaves for the next; it returns the trained module."""
_FOLDER = "own"


def train_by(
    loop: OwnLoop, module: nn.Module, data: Data, where: Device, folder: Path, progress: Progress
) -> nn.Module:
    """The module as the user's loop trained it.

    Raises:
        UserError: it returns no module, or tensors that the recipe's model does not have, or that are not finite.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    own = folder / _FOLDER
    own.mkdir(exist_ok=True)
    with closing(Journal(folder)) as journal:
        watched = replace(progress, note=journal.note)
        trained = loop(module, data, torch.device(where.torch_name), own, watched)
    name = getattr(loop, "__qualname__", type(loop).__name__)
    if not isinstance(trained, nn.Module):
        raise UserError(f"{name} must return the trained module, got {type(trained).__name__}")
    _check(name, expected, trained)
    shutil.rmtree(own)
    return trained


def _check(name: str, expected: dict[str, tuple[int, ...]], trained: nn.Module) -> None:
    tensors = trained.state_dict()
    actual = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if differing := sorted(expected.items() ^ actual.items()):
        key = differing[0][0]
        raise UserError(
            f"{name} must return a module with the tensors of the recipe's model: {key!r} is "
            f"{actual.get(key, 'missing')}, the model has {expected.get(key, 'none of that name')}; "
            "of a wrapper return what it wraps"
        )
    if broken := next((key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()), None):
        raise UserError(f"{name} returned a module whose {broken!r} is not finite")
