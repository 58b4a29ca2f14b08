"""Fashion-MNIST, whole: 60,000 pictures of clothes to train, 10,000 to test, 28x28; a CNN.

The data (MIT licence, Zalando SE; Xiao et al., 2017, arXiv:1708.07747) is Debian's: apt-get install
dataset-fashion-mnist. Another folder with the same four files is named by the environment variable FASHION_MNIST.
``nearest_mean`` is the baseline to beat.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.verdict.limits import Limits
from export.errors import UserError
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.data import Data, Split
from pipeline.recipe import Recipe, TrainSpec

_FOLDER = "/usr/share/datasets/fashion-mnist"
_FILES = (
    "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz",
)  # fmt: skip
_IMAGES_HEADER_BYTES, _LABELS_HEADER_BYTES = 16, 8
_VALIDATION_ROWS = 5000


class FashionNet(nn.Module):
    """``(batch, 1, 28, 28)`` images with values in [0, 1], to logits ``(batch, 10)``."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * width * 3 * 3, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(self.features(image))
        return logits


def files() -> tuple[Path, ...]:
    """The four files: images and labels to train, images and labels to test.

    Raises:
        UserError: one of them is missing.
    """
    folder = Path(os.environ.get("FASHION_MNIST", _FOLDER))
    paths = tuple(folder / name for name in _FILES)
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"the recipe fashion needs {missing[0]}: apt-get install dataset-fashion-mnist, or name the folder that "
            "has it: FASHION_MNIST=path/to/folder"
        )
    return paths


def data() -> Data:
    """55,000 images to train, 5,000 to choose the epoch, and the 10,000 of the test set."""
    train_images, train_labels, test_images, test_labels = files()
    train, test = _split(train_images, train_labels), _split(test_images, test_labels)
    order = torch.randperm(train.rows_count, generator=torch.Generator().manual_seed(0))
    return Data(train=train.take(order[_VALIDATION_ROWS:]), validation=train.take(order[:_VALIDATION_ROWS]), test=test)


def _split(images: Path, labels: Path) -> Split:
    with gzip.open(images) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=_IMAGES_HEADER_BYTES).reshape(-1, 1, 28, 28)
    with gzip.open(labels) as file:
        classes = np.frombuffer(file.read(), np.uint8, offset=_LABELS_HEADER_BYTES)
    return Split(inputs={"image": torch.from_numpy(pixels / np.float32(255))}, targets=torch.tensor(classes.tolist()))


def nearest_mean(train: Split, test: Split) -> float:
    """The baseline: accuracy of the class whose mean image is nearest."""
    images, labels = train.inputs["image"].flatten(1), train.targets
    means = torch.stack([images[labels == label].mean(0) for label in labels.unique()])
    return float((torch.cdist(test.inputs["image"].flatten(1), means).argmin(1) == test.targets).float().mean())


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose largest logit is their label's."""
    return float((logits.argmax(1) == labels).float().mean())


def recipe() -> Recipe:
    """AdamW with a cosine schedule, three epochs of 128 rows."""
    return Recipe(
        name="fashion",
        model=FashionNet,
        signature=Signature(
            inputs=(TensorSpec("image", "float32", ("batch", 1, 28, 28), low=0.0, high=1.0),),
            output_names=("logits",),
            ranges={"batch": SizeRange(max=4096)},
        ),
        data=data,
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
        files=files(),
        train=TrainSpec(
            epochs=3, batch_rows=128, optimizer="adamw", lr=4e-3, weight_decay=0.01, decay="matrices",
            schedule="cosine", warmup_steps=50, keep="best", print_every_epochs=1,
        ),
        limits=Limits(min_metrics={"test_accuracy": 0.89}),
    )  # fmt: skip
