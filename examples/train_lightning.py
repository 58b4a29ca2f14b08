"""PyTorch Lightning as a recipe's training: its Trainer trains; Torchstone exports, proves and measures what it made.

    pip install lightning
    python examples/train_lightning.py

The file is a recipe: ``torchstone run examples/train_lightning.py`` takes all of a run's options. A training that is
killed goes on from Lightning's last checkpoint, since the folder that it gets outlives it.
"""

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pipeline.all import main
from pipeline.recipe import Progress
from torchstone import Data, Recipe, Signature, SizeRange, Split, TensorSpec


class Fit(lightning.LightningModule):  # type: ignore[misc]
    """How the module is trained; the module itself knows nothing of Lightning."""

    def __init__(self, module: nn.Module, progress: Progress) -> None:
        super().__init__()
        self.module, self.progress = module, progress

    def training_step(self, batch: Any) -> torch.Tensor:
        """A batch to its loss."""
        x, targets = batch
        loss = nn.functional.cross_entropy(self.module(x), targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """A line of ``metrics.jsonl``, which the report shows as a curve."""
        loss = float(self.trainer.callback_metrics["train_loss"])
        self.progress.note({"epoch": self.current_epoch + 1, "train_loss": loss})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any of torch's."""
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def my_train(module: nn.Module, data: Data, device: torch.device, folder: Path, progress: Progress) -> nn.Module:
    """The module as the Trainer leaves it."""
    assert isinstance(data.train, Split)
    rows = TensorDataset(data.train.inputs["x"], data.train.targets)
    trainer = lightning.Trainer(
        max_epochs=10, accelerator=device.type, devices=1 if device.index is None else [device.index],
        callbacks=[ModelCheckpoint(folder, save_last=True)], logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    last = folder / "last.ckpt"
    trainer.fit(Fit(module, progress), DataLoader(rows, 32, shuffle=True), ckpt_path=last if last.exists() else None)
    return module


def points() -> Data:
    """Is the sum of four numbers positive?"""
    x = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
    split = [Split(inputs={"x": part}, targets=(part.sum(1) > 0).long()) for part in x.split([400, 112])]
    return Data(train=split[0], test=split[1])


def recipe() -> Recipe:
    """What is trained, and what it is exported to."""
    return Recipe(
        name="train_lightning",
        model=lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)),
        signature=Signature(inputs=(TensorSpec("x", "float32", ("batch", 4)),), ranges={"batch": SizeRange(max=64)}),
        data=points,
        metrics={"accuracy": lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean())},
        train=my_train,
        backends=("eager", "onnx"),
    )


if __name__ == "__main__":
    sys.exit(main([__file__, "--only", "parity"]))
