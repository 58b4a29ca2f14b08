"""The run behind a name: a folder, ``seed``, ``seed@1f2e``, ``seed@base``."""

from __future__ import annotations

from pathlib import Path

from bench.run_folder import RunFolder
from export import hints
from export.errors import UserError
from pipeline.recipes import built_in
from pipeline.run import LATEST


def find_run(text: str, out: Path) -> RunFolder:
    """The run behind RUN: a folder, a recipe's name (its latest run with a verdict, else its only run) or
    ``<recipe>@<key prefix or name>``.

    Raises:
        UserError: there is none, or the prefix fits several.
    """
    if RunFolder(Path(text)).recipe_record.is_file():
        return RunFolder(Path(text).resolve())
    recipe, _, prefix = text.partition("@")
    base = out / recipe
    link = base / (prefix or LATEST)
    if recipe and link.is_symlink() and link.exists() and link.resolve().parent == base.resolve():
        return RunFolder(link.resolve())
    runs = [
        folder
        for folder in base.glob(f"{prefix}*")
        if recipe and not folder.is_symlink() and RunFolder(folder).recipe_record.exists()
    ]
    if len(runs) == 1:
        return RunFolder(runs[0].resolve())
    if runs:
        raise UserError(f"{text} fits several runs: {', '.join(sorted(f'{recipe}@{run.name}' for run in runs))}")
    name = recipe if recipe in built_in() else "RECIPE"
    raise UserError(f"there is no run {text!r} under {out}: {hints.command('run', name)} makes one")
