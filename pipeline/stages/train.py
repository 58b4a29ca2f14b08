"""From a recipe to a checkpoint; and what is checked before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from bench.run_folder import CHECKPOINT_RECORD
from bench.verdict.judge import Failure
from export.build import Source
from export.completion import complete
from export.device import HOST, device
from export.exporters.quantize import CALIBRATION_ROWS
from export.files import write_atomically
from export.record import key_of
from export.signature import Signature
from pipeline.data import in_memory
from pipeline.run import Run
from pipeline.stages.children import Failures, users_code
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.determinism import seed_everything
from pipeline.training.distributed import ALONE, World
from pipeline.training.source import TrainedModule
from pipeline.training.spec import TrainSpec
from pipeline.training.train import train as train_recipe
from pipeline.training.watch.progress import Progress
from pipeline.training.weights import refuse_sparse, tensor_sha256


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A checkpoint, and where workers find its module."""

    checkpoint: Checkpoint
    source: Source


def check(run: Run) -> Failures:
    """Before anything is trained: which backends cannot work here, and why; each is named with its remedy."""
    failures = {}
    for name, entry in run.found.recipe.entries.items():
        if reason := entry.backend.unavailable(run.device):
            failures[name] = Failure(step="build", cause=reason)
            run.console.stage("check", f"{name} will fail: {reason}")
    return failures


def train(run: Run, world: World = ALONE, begin: Callable[[Path, str], None] = lambda folder, key: None) -> Trained:
    """The checkpoint: trained, or the model's own weights where the recipe has no training.

    ``begin`` hears the folder and the key when there is something to train, for the other processes of ``world``.
    """
    recipe = run.found.recipe
    source = TrainedModule(location=run.found.location, weights=str(run.files.weights)).source()
    key = run.key(
        "train",
        tools=("training",),
        settings=recipe.train_settings,
        seed=recipe.seed,
        device=run.device,
        given=None if recipe.train else _given_weights_sha256(run),
        sources=run.record.source_sha256,
        files=run.record.file_sha256,
        data=recipe.versions,
    )

    def make(folder: Path) -> None:
        complete_signature(run)  # a model that does not accept its own example is not worth training
        epochs = recipe.train.epochs if isinstance(recipe.train, TrainSpec) else None
        with run.console.bar("train", epochs if recipe.train else 0) as advance:
            progress = Progress(
                say=lambda text: run.console.stage("train", text),
                advance=lambda done, _, note: advance(done, note),
            )
            with users_code(run, "training", limited=False):  # nobody knows how long it takes
                begin(folder, key)
                train_recipe(recipe, device(run.device), folder, key, progress, world)
                device(run.device).release()

    checkpoint, made = run.stage(
        run.files.checkpoint, Checkpoint, CHECKPOINT_RECORD, key, make, keep_partial=recipe.train is not None
    )
    if not made and recipe.train is not None:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in checkpoint.metrics.items())
        run.console.stage("train", f"reused, trained {checkpoint.observed.at}" + (f" ({figures})" if figures else ""))
    return Trained(checkpoint=checkpoint, source=source)


def complete_signature(run: Run) -> Signature:
    """The recipe's signature with its outputs, found by running a fresh model.

    Raises:
        UserError: the model does not accept its own example input.
    """
    recipe = run.found.recipe
    torch.manual_seed(recipe.seed)
    with users_code(run, "building the model"):
        return complete(recipe.model(), recipe.signature, recipe.seed)


def calibration_rows(run: Run) -> Path | None:
    """A file of training rows, for backends that take ranges from real data; None where the recipe has none."""
    recipe = run.found.recipe
    if recipe.data is None:
        return None
    path = run.files.calibration_rows
    with users_code(run, "loading the data"):
        seed_everything(recipe.seed, device(run.device))
        train_rows = in_memory(recipe.data().train, recipe.signature.input_names, CALIBRATION_ROWS)
    rows = {name: array[:CALIBRATION_ROWS].contiguous() for name, array in train_rows.inputs.items()}
    write_atomically(path, save(rows))
    return path


def _given_weights_sha256(run: Run) -> str:
    """The digest of the weights that a model arrives with: they are part of what the run depends on."""
    recipe = run.found.recipe
    seed_everything(recipe.seed, HOST)
    with users_code(run, "building the model"):
        state = recipe.model().state_dict()
    refuse_sparse(state)
    return key_of(**{name: tensor_sha256(tensor) for name, tensor in state.items()})
