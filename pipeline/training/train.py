"""From a recipe to a checkpoint: the model as it arrives, trained by our loop, or by one of the user's own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from bench.run_folder import CHECKPOINT_RECORD, METRICS, WEIGHTS
from export.device import Device
from export.files import digest_files, write_atomically
from export.record import observed, write
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.determinism import seed_everything, without_determinism_is_said
from pipeline.training.evaluate import data_sha256, final_metrics
from pipeline.training.loop import Loop
from pipeline.training.own import train_by
from pipeline.training.precision import products
from pipeline.training.resume import forget_state, save_tensors
from pipeline.training.spec import TrainSpec
from pipeline.training.watch.progress import Progress
from pipeline.training.weights import take_up

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


def train(recipe: Recipe, where: Device, folder: Path, key: str, progress: Progress) -> Checkpoint:
    """Train into ``folder``, going on from a state that lies there; the caller publishes the folder when it is whole.

    Raises:
        UserError: loss or gradients are not finite, the data fails, memory does not suffice; an operator has no
            deterministic algorithm, and one was asked for; a setting does not fit the device.
        KeyboardInterrupt: after the state was saved, at the end of a step.
    """
    started = time.monotonic()
    spec = recipe.train if isinstance(recipe.train, TrainSpec) else None
    seed_everything(recipe.seed, where, deterministic=spec is not None and spec.deterministic)
    data = recipe.data() if recipe.data else None
    evaluated = None if data is None else data.evaluated_in_memory(recipe.signature.input_names)
    torch.manual_seed(recipe.seed)
    module = recipe.model().to(where.torch_name)
    last_loss, kept_epoch = None, 0
    if spec is not None and evaluated is not None:
        with without_determinism_is_said(), products(spec, where):
            last_loss, kept_epoch = Loop(recipe, spec, evaluated, module, where).run(folder, key, progress)
        take_up(module, load_file(folder / WEIGHTS))
    elif callable(recipe.train) and data is not None:
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
        files=digest_files(folder, [folder / WEIGHTS, folder / METRICS]),
        data_sha256=data_sha256(evaluated),
        epochs_count=spec.epochs if spec else 0,
        kept_epoch=kept_epoch,
        metrics=metrics,
        observed=observed(time.monotonic() - started),
    )
    write(folder / CHECKPOINT_RECORD, checkpoint)
    forget_state(folder)
    return checkpoint


def _say_results(metrics: dict[str, float], progress: Progress) -> None:
    """Accuracy and final loss in the words of the seed document; the split is named where there are several."""
    accuracies = {
        name.removesuffix("_accuracy"): value for name, value in metrics.items() if name.endswith("_accuracy")
    }
    for split, value in accuracies.items():
        progress.say(f"Accuracy: {value * 100:.2f}%" + (f" ({split})" if len(accuracies) > 1 else ""))
    if "train_loss" in metrics:
        progress.say(f"Final Loss: {metrics['train_loss']}")
