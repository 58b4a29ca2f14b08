"""A run's folder for what was given instead of a recipe: the module, its signature, its rows and the settings.

``<out>/<name>/given/<key12>/`` is a recipe like any other: a file with a function that returns it, which the children
of the run, and whoever repeats one of their steps, import. It is named after its content, and written once.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save
from torch import nn

from bench.parity.spec import ParitySpec
from bench.timing.spec import BenchSpec
from bench.verdict.limits import Limits
from export.files import FileDigest, digest_files, publish, verify_files, write_atomically
from export.record import Record, key_of, read, sha256, write
from export.signature import Signature
from export.worker import ProcessLimits
from pipeline.data import Data, Split
from pipeline.find import Found, RecipeLocation, source_digests, users_folders
from pipeline.live.calls import Inputs
from pipeline.live.module import Written, read_module, write_module, written
from pipeline.recipe import Recipe
from pipeline.run import KEY_DIGITS

RECORD, ROWS = "given.json", "rows.safetensors"
_FUNCTION = "recipe"
_RECIPE = '''"""A model that was given to torchstone.check; given.json has its signature and the settings."""

from pathlib import Path

from pipeline.live.given import read_recipe


def recipe():
    """As it was given."""
    return read_recipe(Path(__file__).parent)
'''


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A recipe's settings, as it describes them."""

    seed: int
    licence: str | None
    backends: tuple[str, ...]
    required: tuple[str, ...] | None
    parity: ParitySpec
    bench: BenchSpec
    limits: Limits
    process: ProcessLimits

    @classmethod
    def of(cls, recipe: Recipe) -> Settings:
        """Those of a recipe."""
        return cls(**{setting.name: getattr(recipe, setting.name) for setting in fields(cls)})

    def put_into(self, recipe: Recipe) -> Recipe:
        """The recipe with these settings."""
        return replace(recipe, **{setting.name: getattr(self, setting.name) for setting in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Given(Record):
    """What lies in the folder."""

    SCHEMA: ClassVar[str] = "torchstone.given/1"

    name: str
    signature: Signature
    settings: Settings
    files: tuple[FileDigest, ...]


def given(module: nn.Module, settings: Recipe, rows: Inputs, out: Path) -> Found:
    """The recipe of a live module, written where the processes of its run find it.

    ``settings`` holds everything but the module, and ``rows``: real rows of some inputs.

    Raises:
        UserError: the module holds what no other process can have.
    """
    whole, saved_rows = written(module), save(rows) if rows else None
    required = [name for name in settings.must_be_good if name not in settings.artifacts]
    own = replace(settings, artifacts={}, required=tuple(required))  # foreign files matter to the run alone
    key = key_of(
        module=whole.sha256,
        rows=sha256(saved_rows) if saved_rows else None,
        signature=own.signature,
        settings=Settings.of(own),
    )[:KEY_DIGITS]
    folder = out.resolve() / own.name / "given" / key
    if not (folder / RECORD).exists():
        _write(folder, whole, saved_rows, own)
    file = folder / f"given_{key}.py"
    location = RecipeLocation(
        module=file.stem, function=_FUNCTION, file=str(file), import_path=(str(folder), *users_folders(sys.path))
    )
    recipe = replace(read_recipe(folder), artifacts=settings.artifacts, required=settings.required)
    return Found(recipe=recipe, location=location, source_sha256=source_digests(whole.imported))


def read_recipe(folder: Path) -> Recipe:
    """The recipe in the folder, after its files were verified.

    Raises:
        RecordError: a file is missing or altered: nothing of it was loaded.
    """
    record = read(Given, folder / RECORD)
    verify_files(folder, record.files)
    rows = folder / ROWS
    recipe = Recipe(
        name=record.name,
        model=lambda: _verified_module(folder, record.files),
        signature=record.signature,
        data=(lambda: _data(load_file(rows))) if rows.exists() else None,
        files=tuple(folder / file.path for file in record.files),
    )
    return record.settings.put_into(recipe)


def _verified_module(folder: Path, files: tuple[FileDigest, ...]) -> nn.Module:
    """The module, its files verified at that very time."""
    verify_files(folder, files)
    return read_module(folder)


def _data(rows: dict[str, torch.Tensor]) -> Data:
    """Rows without labels: nothing is trained on them."""
    count = len(next(iter(rows.values())))
    return Data(train=Split(inputs=rows, targets=torch.empty(count, 0)))


def _write(folder: Path, whole: Written, rows: bytes | None, settings: Recipe) -> None:
    """Fill a hidden folder, and make it visible by one rename."""
    partial = folder.parent / f".{folder.name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    files = [*write_module(partial, whole), partial / f"given_{folder.name}.py"]
    write_atomically(files[-1], _RECIPE.encode())
    if rows is not None:
        files.append(partial / ROWS)
        write_atomically(files[-1], rows)
    record = Given(
        name=settings.name,
        signature=settings.signature,
        settings=Settings.of(settings),
        files=digest_files(partial, files),
    )
    write(partial / RECORD, record)
    publish(partial, folder)
