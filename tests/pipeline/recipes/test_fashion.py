from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from export.errors import UserError
from pipeline.recipes import fashion
from tests.pipeline.recipes.verdicts import good_verdict

HAVE = Path("/usr/share/datasets/fashion-mnist").is_dir()
needs_data = pytest.mark.skipif(not HAVE, reason="extra: apt-get install dataset-fashion-mnist brings the images")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The four files, small: 12 images to train, 6 to test; each pixel of an image is its label, times 20."""
    for name, rows_count in (("train", 12), ("t10k", 6)):
        labels = np.arange(rows_count, dtype=np.uint8) % 10
        images = np.repeat(labels * np.uint8(20), 28 * 28)
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images.tobytes()))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    monkeypatch.setattr(fashion, "_VALIDATION_ROWS", 4)
    return tmp_path


def test_the_folder_is_named_by_the_environment_and_each_image_keeps_its_label(folder: Path) -> None:
    assert [path.parent for path in fashion.recipe().files] == [folder] * 4
    splits = fashion.data().splits
    assert {name: split.rows_count for name, split in splits.items()} == {"train": 8, "validation": 4, "test": 6}
    for split in splits.values():
        pixels = (split.targets * 20 / 255).float()
        torch.testing.assert_close(split.inputs["image"], pixels[:, None, None, None].expand(-1, 1, 28, 28))
    kept = torch.cat([splits["train"].targets, splits["validation"].targets])
    assert sorted(kept.tolist()) == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_the_nearest_mean_is_right_where_the_classes_are_flat(folder: Path) -> None:
    splits = fashion.data().splits
    assert fashion.nearest_mean(splits["test"], splits["test"]) == 1


def test_a_missing_file_is_named_with_the_package_that_has_it(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"needs .*t10k-labels-idx1-ubyte\.gz: apt-get install dataset-fashion-mnist"):
        fashion.recipe()


@needs_data
@pytest.mark.extra
@pytest.mark.slow
def test_fashion_from_nothing_to_a_good_verdict(tmp_path: Path) -> None:
    data = fashion.data()
    assert fashion.nearest_mean(data.splits["train"], data.splits["test"]) < 0.7
    verdict = good_verdict("fashion", tmp_path)
    assert verdict.metrics["test_accuracy"] >= 0.89
