"""The packages that a recipe's data comes with are part of what its training depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from platform import python_version

import pytest

from export import environment
from pipeline import recipe as recipes
from pipeline.console import Console
from pipeline.find import Found, RecipeLocation
from pipeline.recipes import digits, finetune, seed, words
from pipeline.run import open_run
from pipeline.stages.train import train


def trained(folder: Path) -> str:
    """The key of the checkpoint of the recipe ``seed``, as if babel had its data."""
    wanted = replace(seed.recipe(), data_packages=("babel", "python"))
    location = RecipeLocation(module="pipeline.recipes.seed", function="recipe", file=None, import_path=())
    found = Found(recipe=wanted, location=location, source_sha256={})
    with open_run(found, "cpu", folder, Console(quiet=True, json=False)) as run:
        return train(run).checkpoint.key


def test_another_version_of_what_the_data_comes_with_is_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained(tmp_path)
    assert trained(tmp_path) == first
    monkeypatch.setattr(recipes, "version", lambda name: "99" if name == "babel" else environment.version(name))
    assert trained(tmp_path) != first
    monkeypatch.undo()
    monkeypatch.setattr(recipes, "python_version", lambda: "3.99")
    assert trained(tmp_path) != first


def test_recipes_name_the_packages_of_their_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert words.recipe().versions == {"babel": environment.version("babel")}
    assert digits.recipe().versions == {"scikit-learn": environment.version("scikit-learn")}
    monkeypatch.setattr(finetune, "model_files", lambda: ())
    assert finetune.recipe().versions == {"python": python_version()}
    assert seed.recipe().versions == {}
