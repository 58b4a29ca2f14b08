"""What a checkpoint says of where it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from export.environment import environment
from export.record import digest, to_json
from export.version import VERSION
from pipeline.recipe import Data
from tests.pipeline.training.small import Augmented, recipe, rows, run


def fingerprint(train: Any, folder: Path) -> str:
    return run(replace(recipe(epochs=1), data=lambda: Data(train=train)), folder).data_sha256["train.rows"]


def test_the_same_recipe_on_the_same_machine_gives_the_same_digest(tmp_path: Path) -> None:
    first, second = run(recipe(), tmp_path / "first"), run(recipe(), tmp_path / "second")
    assert digest(first) == digest(second)
    assert digest(run(replace(recipe(), seed=4), tmp_path / "other")) != digest(first)


def test_a_checkpoint_names_its_seed_its_precision_its_versions_and_its_machine(tmp_path: Path) -> None:
    checkpoint = run(recipe(precision="bfloat16"), tmp_path)
    assert (checkpoint.seed, checkpoint.precision, checkpoint.world_size) == (3, "bfloat16", 1)
    assert checkpoint.version == VERSION
    assert checkpoint.environment == to_json(environment())
    given = run(replace(recipe(), train=None, data=None, loss=None, metrics={}), tmp_path / "given")
    assert given.precision is None


def test_a_data_set_that_is_read_row_by_row_has_a_digest_whatever_the_order_of_its_rows(tmp_path: Path) -> None:
    split = rows()
    whole: Dataset[Any] = TensorDataset(split.inputs["x"], split.targets)
    turned: Dataset[Any] = Subset(whole, list(range(59, -1, -1)))
    first = fingerprint(whole, tmp_path / "first")
    assert fingerprint(turned, tmp_path / "turned") == first
    changed = split.inputs["x"].clone()
    changed[17, 2] += 1e-6
    assert fingerprint(TensorDataset(changed, split.targets), tmp_path / "changed") != first
    assert fingerprint(Subset(whole, range(59)), tmp_path / "shorter") != first


def test_augmented_rows_have_a_digest_too_and_the_generators_are_as_before(tmp_path: Path) -> None:
    torch.manual_seed(5)
    assert fingerprint(Augmented(), tmp_path / "first") == fingerprint(Augmented(), tmp_path / "second")
