"""The trained module of a run, for the processes that may see the model's source (eager, scripting, the reference)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from bench.run_folder import RunFolder
from export.build import Source
from export.record import from_json, read, to_json
from pipeline.find import RecipeLocation, call
from pipeline.run import RecipeRecord
from pipeline.training.weights import take_up


@dataclass(frozen=True, kw_only=True)
class TrainedModule:
    """A recipe's module with the weights of a checkpoint."""

    location: RecipeLocation
    weights: str
    """The safetensors file."""

    def source(self) -> Source:
        """The same, as a worker takes it."""
        return Source(function="pipeline.training.source:trained_module", argument=json.dumps(to_json(self)))


def trained_module(argument: str) -> nn.Module:
    """Build the recipe's module, load its weights; on the CPU, in eval mode."""
    wanted = from_json(TrainedModule, json.loads(argument))
    recipe = call(wanted.location)
    torch.manual_seed(recipe.seed)
    module = recipe.model()
    take_up(module, load_file(Path(wanted.weights)))
    return module.eval()


def run_module(folder: str) -> nn.Module:
    """The trained module of a run on disk, for its eager baseline; its recipe must be importable.

    Raises:
        UserError: the recipe's module is not found.
    """
    files = RunFolder(Path(folder))
    record = read(RecipeRecord, files.recipe_record)
    module, _, function = record.function.partition(":")
    location = RecipeLocation(module=module, function=function, file=None, import_path=(str(Path.cwd()),))
    return trained_module(json.dumps(to_json(TrainedModule(location=location, weights=str(files.weights)))))
