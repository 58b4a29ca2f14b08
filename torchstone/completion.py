"""Completion of the command in a shell: ``torchstone --tyro-print-completion bash``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from pipeline import cli


@dataclass(frozen=True)
class _Folder:
    """What is known here of a command that reads its arguments without tyro."""

    folder: tyro.conf.Positional[Path]


def complete(arguments: Sequence[str], commands: Mapping[str, str]) -> None:
    """Print or write what a shell needs to complete the commands, which are given by name with their modules.

    Raises:
        SystemExit: when it is done, as tyro does; with code 2 for a shell that it does not know.
    """
    kinds: dict[str, Callable[..., Any]] = {name: _options(module) for name, module in commands.items()}
    tyro.extras.subcommand_cli_from_dict(
        kinds,
        prog="torchstone",
        args=list(arguments),
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
    )


def _options(module: str) -> type:
    """A command's options; where a recipe decides on further ones, those that all recipes have."""
    if module == "pipeline.verify":
        return _Folder
    kind: type = getattr(importlib.import_module(module), "Options", cli.Options)
    return kind
