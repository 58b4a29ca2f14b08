"""A recipe: one complete description of a model, its data, and what it must be to ship.

A recipe is a plain function without arguments that returns a ``Recipe``. Derive one from another with
``dataclasses.replace``. Every setting that is not a Python object can be changed on the command line
(``--train.epochs 5``); the flags are made from these classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from platform import python_version
from typing import Annotated, Any

import torch
import tyro
from torch import nn

from bench.parity.spec import ParitySpec
from bench.timing.spec import BenchSpec
from bench.verdict.entry import Entry, entries
from bench.verdict.limits import Limits
from export import registry
from export.environment import version
from export.errors import UserError
from export.files import is_folder_name
from export.foreign import files as foreign_files
from export.registry import STANDARD
from export.signature import Signature
from export.worker import ProcessLimits
from pipeline.data import Data, Metric, Split
from pipeline.training.own import OwnLoop
from pipeline.training.spec import TrainSpec
from pipeline.training.watch.progress import Progress

__all__ = ["Data", "Metric", "Progress", "Recipe", "Split", "TrainSpec"]  # what a recipe is written with
REQUIRED = ("torchscript", "compile", "aotinductor", "onnx")


def required_of(backends: tuple[str, ...], required: tuple[str, ...] | None) -> tuple[str, ...]:
    """The required ones among a recipe's backends: those that it names, else the standard ones that it has."""
    return tuple(name for name in REQUIRED if name in backends) if required is None else required


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a run needs.

    A recipe without ``train`` has no training: ``model()`` then returns the module with its weights. A function there
    is a training loop of the user's own: ``my_train(module, data, device, folder, progress)`` returns the module.
    """

    name: tyro.conf.Suppress[str]
    """The name of the folder under ``artifacts/``."""
    model: tyro.conf.Suppress[Callable[[], nn.Module]]
    """Builds the module; random initialisation is seeded before it is called."""
    signature: tyro.conf.Suppress[Signature]
    data: tyro.conf.Suppress[Callable[[], Data] | None] = None
    loss: tyro.conf.Suppress[Callable[[Any, torch.Tensor], torch.Tensor] | None] = None
    """``loss(outputs, targets)``: the model's result on a batch, to a scalar."""
    metrics: tyro.conf.Suppress[Mapping[str, Metric]] = field(default_factory=dict)
    optimizer: tyro.conf.Suppress[Callable[[nn.Module], torch.optim.Optimizer] | None] = None
    """Replaces the optimizer that ``train`` names."""
    licence: tyro.conf.Suppress[str | None] = None
    """The model's licence as an SPDX identifier: a bundle says it."""
    files: tyro.conf.Suppress[tuple[Path, ...]] = ()
    """Files that the recipe reads (data, weights): a change in one makes a new run."""
    data_packages: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Distributions that the data comes with, or ``python``: another version of one is other data, trained anew."""
    seed: tyro.conf.Suppress[int] = 0
    """Governs initialisation, order of rows, dropout and every drawn input."""
    train: TrainSpec | Annotated[OwnLoop, tyro.conf.Suppress] | None = None
    backends: tuple[str, ...] = STANDARD
    """What to export to; ``eager`` is the baseline."""
    artifacts: dict[str, Path] = field(default_factory=dict)
    """Files that other tools made of the same model, judged beside the rest, by the names of their rows."""
    required: tuple[str, ...] | None = None
    """Rows that must turn out good for the run to be good; None: the four standard ones among ``backends``."""
    parity: ParitySpec = field(default_factory=ParitySpec)
    bench: BenchSpec = field(default_factory=BenchSpec)
    limits: Limits = field(default_factory=Limits)
    process: ProcessLimits = field(default_factory=ProcessLimits)
    """What each build and each measurement may use."""

    def setting(self, name: str) -> object:
        """One of the settings, as records keep it."""
        return self.train_settings if name == "train" else getattr(self, name)

    @property
    def train_settings(self) -> TrainSpec | str | None:
        """How it is trained, as records keep it: of a loop of the user's own the name."""
        if not callable(self.train):
            return self.train
        return f"{self.train.__module__}:{getattr(self.train, '__qualname__', type(self.train).__name__)}"

    @property
    def versions(self) -> dict[str, str | None]:
        """What is installed of ``data_packages``."""
        return {name: python_version() if name == "python" else version(name) for name in self.data_packages}

    @property
    def must_be_good(self) -> tuple[str, ...]:
        """The required rows."""
        return required_of(self.backends, self.required)

    @property
    def foreign(self) -> tuple[tuple[str, str], ...]:
        """Each of ``artifacts`` by name, with the backend that runs it.

        Raises:
            UserError: a file that no backend takes.
        """
        return tuple((name, registry.of_foreign(file)[0].name) for name, file in self.artifacts.items())

    @property
    def entries(self) -> dict[str, Entry]:
        """What its rows are about, by name in the order of the table."""
        return entries(self.backends, self.foreign)

    def __post_init__(self) -> None:
        if not is_folder_name(self.name):
            raise UserError(f"Recipe.name must be letters, digits, '-', '_' and '.', got {self.name!r}")
        foreign_files.check(self.artifacts)
        known = {*registry.names(), *self.artifacts}
        if unknown := [name for name in (*self.backends, *self.must_be_good) if name not in known]:
            raise UserError(f"backends must be of {', '.join(registry.names())}, got {unknown[0]!r}")
        if absent := [name for name in self.must_be_good if name not in (*self.backends, *self.artifacts)]:
            raise UserError(
                f"required backends must be among backends, {absent[0]!r} is not: add it, or drop it from required"
            )
        if self.train is not None and (self.data is None or (self.loss is None and not callable(self.train))):
            raise UserError(f"recipe {self.name!r}: training needs data and loss, or leave train out")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must lie in [0, 2**32), got {self.seed}")
