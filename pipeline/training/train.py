"""From a recipe to a checkpoint: the model as it arrives, trained by our loop, or by one of the user's own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn

from bench.run_folder import CHECKPOINT_RECORD, LAST, METRICS, WEIGHTS
from export.device import Device
from export.environment import environment
from export.errors import UserError
from export.files import digest_files, write_atomically
from export.record import observed, to_json, write
from export.version import VERSION
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.determinism import seed_everything, without_determinism_is_said
from pipeline.training.distributed import ALONE, World
from pipeline.training.evaluate import data_sha256, final_metrics
from pipeline.training.loop import Loop
from pipeline.training.own import train_by
from pipeline.training.precision import products
from pipeline.training.spec import TrainSpec
from pipeline.training.state.resume import forget_state
from pipeline.training.watch.progress import Progress
from pipeline.training.weights import save_tensors, take_up

if TYPE_CHECKING:
    from pipeline.data import Data
    from pipeline.recipe import Recipe


def train(
    recipe: Recipe, where: Device, folder: Path, key: str, progress: Progress, world: World = ALONE
) -> Checkpoint:
    """Train into ``folder``, going on from a state that lies there; the caller publishes the folder when it is whole.

    Raises:
        UserError: loss or gradients are not finite, the data fails, memory does not suffice; an operator has no
            deterministic algorithm, and one was asked for; a setting does not fit the device.
        KeyboardInterrupt: after the state was saved, at the end of a step.
    """
    started = time.monotonic()
    spec = recipe.train if isinstance(recipe.train, TrainSpec) else None
    data, evaluated, module = _begun(recipe, where, world)
    last_loss, kept_epoch = None, 0
    if spec is not None and evaluated is not None:
        with without_determinism_is_said(), products(spec, where):
            last_loss, kept_epoch = Loop(recipe, spec, evaluated, module, where, world).run(folder, key, progress)
        if spec.sharded:
            module = recipe.model()  # whole, in this process alone
        take_up(module, load_file(folder / WEIGHTS))
    elif callable(recipe.train) and data is not None:
        if world.size > 1:
            raise UserError("torchrun shares the work of our loop: a loop of your own must start its own processes")
        module = train_by(recipe.train, module, data, where, folder, progress)
        save_tensors(folder / WEIGHTS, module.state_dict())
    else:
        save_tensors(folder / WEIGHTS, module.state_dict())
        write_atomically(folder / METRICS, b"")
    with without_determinism_is_said():
        metrics = final_metrics(recipe, evaluated, module.to(where.torch_name), where)
    if last_loss is not None:
        metrics["train_loss"] = last_loss
    if recipe.train is not None:
        _say_results(metrics, progress)
    checkpoint = Checkpoint(
        key=key,
        recipe=recipe.name,
        files=digest_files(folder, [path for name in (WEIGHTS, LAST, METRICS) if (path := folder / name).exists()]),
        data_sha256=data_sha256(evaluated, recipe.signature.input_names),
        epochs_count=spec.epochs if spec else 0,
        kept_epoch=kept_epoch,
        metrics=metrics,
        seed=recipe.seed,
        precision=spec.precision if spec else None,
        world_size=world.size,
        version=VERSION,
        environment=to_json(environment()),
        observed=observed(time.monotonic() - started),
    )
    write(folder / CHECKPOINT_RECORD, checkpoint)
    forget_state(folder)
    return checkpoint


def follow(recipe: Recipe, where: Device, folder: Path, key: str, world: World) -> None:
    """Train beside the first process, which alone writes.

    Raises:
        UserError: as ``train``.
    """
    _, data, module = _begun(recipe, where, world)
    assert data is not None
    assert isinstance(recipe.train, TrainSpec)
    silent = Progress(say=lambda text: None, advance=lambda done, total, note: None)
    with without_determinism_is_said(), products(recipe.train, where):
        Loop(recipe, recipe.train, data, module, where, world).run(folder, key, silent)


def _begun(recipe: Recipe, where: Device, world: World) -> tuple[Data | None, Data | None, nn.Module]:
    """What a training begins with: the recipe's data, as given and with what is evaluated in memory; a fresh module."""
    seed_everything(
        recipe.seed, where, deterministic=isinstance(recipe.train, TrainSpec) and recipe.train.deterministic
    )
    data = recipe.data() if recipe.data else None
    evaluated = None if data is None else data.evaluated_in_memory(recipe.signature.input_names)
    torch.manual_seed(recipe.seed)
    module = recipe.model()
    if isinstance(recipe.train, TrainSpec) and recipe.train.sharded and world.size > 1:
        return data, evaluated, module  # it need not fit a device as a whole
    return data, evaluated, module.to(where.torch_name)


def _say_results(metrics: dict[str, float], progress: Progress) -> None:
    """Accuracy and final loss in the words of the seed document, other metrics by their names; the split is named
    where there are several.
    """
    of_splits = {name: value for name, value in metrics.items() if name != "train_loss"}
    several = len({name.partition("_")[0] for name in of_splits}) > 1
    for name, value in of_splits.items():
        split, _, metric = name.partition("_")
        figure = f"Accuracy: {value * 100:.2f}%" if metric == "accuracy" else f"{metric}: {value:.4g}"
        progress.say(figure + (f" ({split})" if several else ""))
    if "train_loss" in metrics:
        progress.say(f"Final Loss: {metrics['train_loss']}")
