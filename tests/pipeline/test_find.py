from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.errors import UserError
from export.record import read
from pipeline.console import Console
from pipeline.find import _installed, find
from pipeline.recipes import built_in
from pipeline.run import RecipeRecord, Run

RECIPE = """
from helper import width
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

def recipe():
    from torch import nn
    import late.inner
    return Recipe(
        name="mine", model=lambda: nn.Linear(width, 1),
        signature=Signature(inputs=(TensorSpec("x", "float32", ("batch", width)),), ranges={"batch": SizeRange()}),
    )

def broken():
    raise RuntimeError("no luck")

def number():
    return 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mine_recipe.py").write_text(RECIPE)
    (tmp_path / "helper.py").write_text("width = 3\n")
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "__init__.py").write_text("")
    (tmp_path / "late" / "inner.py").write_text("from . import deeper\n")
    (tmp_path / "late" / "deeper.py").write_text("import json\n")
    before = set(sys.modules)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    _installed.cache_clear()
    for name in {"mine_recipe", "helper", "late", "late.inner", "late.deeper"} & (set(sys.modules) - before):
        del sys.modules[name]


def test_everything_that_a_recipe_imports_counts_also_late_and_relative_imports(mine: Path) -> None:
    found = find(str(mine / "mine_recipe.py"))
    assert found.recipe.name == "mine"
    assert set(found.source_sha256) == {"mine_recipe", "helper", "late", "late.inner", "late.deeper"}


def test_a_package_that_a_recipe_merely_names_is_not_imported(mine: Path) -> None:
    """One that nobody asked for yet may be slow to import, or broken."""
    (mine / "broken").mkdir()
    (mine / "broken" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (mine / "broken" / "inner.py").write_text("value = 1\n")
    recipe = mine / "mine_recipe.py"
    recipe.write_text(recipe.read_text() + "\ndef later():\n    import broken.inner\n")
    assert "broken.inner" in find(f"{recipe}:recipe").source_sha256
    assert "broken" not in sys.modules


def test_modules_in_folders_without_an_init_count_although_nothing_imported_them(mine: Path) -> None:
    (mine / "spread" / "deep").mkdir(parents=True)
    (mine / "spread" / "deep" / "inner.py").write_text("")
    (mine / "helper.py").write_text("width = 3\n\ndef late():\n    import spread.deep.inner\n")
    digests = find(str(mine / "mine_recipe.py")).source_sha256
    assert "spread.deep.inner" in digests
    assert "spread" not in sys.modules


@pytest.mark.parametrize(("folder", "counts"), [("site-packages", False), ("dist-packages", False), ("lib", True)])
def test_packages_of_another_environment_on_the_path_are_not_the_users_own(
    folder: str, counts: bool, mine: Path, tmp_path: Path
) -> None:
    """Those of the system below an environment, say, or those that pip installs for one user."""
    (tmp_path / "elsewhere" / folder).mkdir(parents=True)
    (tmp_path / "elsewhere" / folder / "borrowed.py").write_text("")
    (mine / "helper.py").write_text("width = 3\n\ndef late():\n    import borrowed\n")
    sys.path.append(str(tmp_path / "elsewhere" / folder))
    _installed.cache_clear()
    assert ("borrowed" in find(str(mine / "mine_recipe.py")).source_sha256) == counts


def test_an_edited_helper_changes_the_digests(mine: Path) -> None:
    before = find(str(mine / "mine_recipe.py")).source_sha256
    (mine / "late" / "deeper.py").write_text("import json  # edited\n")
    after = find(str(mine / "mine_recipe.py")).source_sha256
    assert {name for name in before if before[name] != after[name]} == {"late.deeper"}


def test_a_module_is_found_from_the_current_folder(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine)
    assert find("mine_recipe:recipe").recipe.name == "mine"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sede", r"no recipe 'sede': did you mean 'seed'\?\nBuilt in: branches, bytes, digits"),
        ("nowhere.py", "no recipe file nowhere.py"),
        ("{}/helper.py", r"has no recipe: it must define a function 'recipe'"),
        ("{}/mine_recipe.py:missing", "must define a function 'missing'"),
        ("{}/mine_recipe.py:broken", r"raised RuntimeError: no luck \(mine_recipe\.py:\d+: raise RuntimeError"),
        ("{}/mine_recipe.py:number", r"must return a pipeline\.recipe\.Recipe, got int"),
        ("no.such.module", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_no_recipe_is_named_with_the_remedy(text: str, reason: str, mine: Path) -> None:
    with pytest.raises(UserError, match=reason):
        find(text.format(mine))


def test_built_in_recipes_are_listed_without_importing_them() -> None:
    assert list(built_in()) == [
        "branches", "bytes", "digits", "fashion", "finetune", "forecast", "seed", "sentence", "words",
    ]  # fmt: skip
    assert all(text.endswith((".", "?")) for text in built_in().values())


def test_the_version_of_every_package_counts_in_a_key_also_of_one_that_no_list_names(
    built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run(
        found=find("seed"),
        device="cpu",
        folder=built,
        record=read(RecipeRecord, built / "recipe.json"),
        console=Console(quiet=True, json=False),
    )
    keys = []
    for version in ("1.0", "1.1"):
        metadata = tmp_path / version / "runtime_of_a_plugin.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: runtime-of-a-plugin\nVersion: {version}\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(tmp_path / version))
            keys.append(run.key("build", tools=("export",), packages=("runtime-of-a-plugin",)))
    assert keys[0] != keys[1]
