"""A model by the name of the function that builds it: ``package.module:callable`` or ``path/to/file.py:callable``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from export import hints
from export.device import HOST
from export.errors import UserError
from export.explanations import in_users_words
from pipeline.find import RecipeLocation, load_module
from pipeline.process.shadow import PACKAGES, namesakes
from pipeline.training.determinism import seed_everything
from pipeline.training.weights import take_up

_FORMS = "package.module:callable or path/to/file.py:callable"


def build_model(text: str, seed: int) -> nn.Module:
    """The model that ``text`` names: a module, or what a function or class without arguments returns.

    Whatever it draws at random is drawn from ``seed``.

    Raises:
        UserError: nothing is there, it raises, or it is no module.
    """
    location = locate(text)
    where = f"{location.file or location.module}:{location.function}"
    seed_everything(seed, HOST)
    module = load_module(location, "model's module")
    if not hasattr(module, location.function):
        public = [name for name in vars(module) if not name.startswith("_")]
        nearest = difflib.get_close_matches(location.function, public, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(public) or 'nothing'}"
        raise UserError(f"{location.file or location.module} has no {location.function!r}: {hint}")
    target = getattr(module, location.function)
    if not isinstance(target, nn.Module):
        if not callable(target):
            raise UserError(f"{where} must be a torch.nn.Module or return one, got {type(target).__name__}")
        try:
            target = target()
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            raise UserError(
                f"{where} raised {in_users_words(error)}. It is called without arguments: where the model "
                "needs some, name a function that gives them"
            ) from error
    if not isinstance(target, nn.Module):
        raise UserError(f"{where} must return a torch.nn.Module, got {type(target).__name__}")
    return target


def locate(text: str) -> RecipeLocation:
    """Parse what the user typed; the callable's name is the location's function.

    Raises:
        UserError: not of the form, no such file, or a name that is a package's of ours.
    """
    place, _, function = text.rpartition(":")
    if not place or not function.isidentifier():
        raise UserError(f"TARGET must be {_FORMS}, got {text!r} (a recipe is for `{hints.command('run', text)}`)")
    if place.endswith(".py") or "/" in place:
        path = Path(place).resolve()
        if not path.is_file():
            raise UserError(f"there is no file {place}: TARGET must be {_FORMS}")
        return RecipeLocation(module=path.stem, function=function, file=str(path), import_path=(str(path.parent),))
    here = Path.cwd()
    if place.partition(".")[0] in PACKAGES:
        hidden = [str(file) for file in namesakes(here) if file.stem == place.partition(".")[0]]
        raise UserError(f"{hidden[0] if hidden else place} bears the name of a package of Torchstone: rename it")
    return RecipeLocation(module=place, function=function, file=None, import_path=(str(here),))


def load_weights(model: nn.Module, file: Path) -> None:
    """Put a state dict from safetensors into a model, name by name.

    Raises:
        UserError: no such file, or tensors that are not the model's: names and shapes that differ are named.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}: --weights takes a state dict as safetensors")
    try:
        tensors = load_file(file)
    except Exception as error:
        raise UserError(
            f"{file} cannot be read as safetensors: {error}. "
            f"safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') writes such a file"
        ) from error
    state = model.state_dict()
    tensors = _with_tied(state, tensors)
    differences = [
        *_first([f"{name} is missing" for name in state if name not in tensors]),
        *_first([f"{name} is not the model's" for name in tensors if name not in state]),
        *_first(
            [
                f"{name} has the shape {list(tensors[name].shape)}, the model's {list(tensor.shape)}"
                for name, tensor in state.items()
                if name in tensors and tensors[name].shape != tensor.shape
            ]
        ),
    ]
    if differences:
        raise UserError(f"{file} does not hold the weights of {type(model).__name__}: {'; '.join(differences)}")
    try:
        take_up(model, tensors)
    except Exception as error:  # a module may load in a way of its own
        raise UserError(f"{file} cannot be loaded into {type(model).__name__}: {error}") from error


def _with_tied(state: Mapping[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the names that share their tensor with one that is there: safetensors keeps one name of each."""
    there = {(state[name].data_ptr(), state[name].shape): name for name in tensors if name in state}
    tied = {
        name: tensors[there[tensor.data_ptr(), tensor.shape]]
        for name, tensor in state.items()
        if name not in tensors and tensor.numel() and (tensor.data_ptr(), tensor.shape) in there
    }
    return tensors | tied


def _first(sentences: list[str]) -> list[str]:
    """The first, and how many more there are; none of none."""
    more = f", and {len(sentences) - 1} more" if len(sentences) > 1 else ""
    return [f"{sentences[0]}{more}"] if sentences else []
