"""The backends that there are: one line a family here, and those that installed packages add.

A package adds its own by an entry point of the group ``torchstone.backends`` that names a ``Backend``, or a tuple of
them (docs/add-a-backend.md). Importing a family's file imports no runtime.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from export.artifact import open_artifact
from export.backend import Backend, LoadOptions, Runner
from export.errors import UserError
from export.files import digest_file

if TYPE_CHECKING:
    from torch import nn

    from export.foreign.format import ForeignFormat

FAMILIES = (
    "export.backends.eager",
    "export.backends.torchscript",
    "export.backends.exported",
    "export.backends.compile",
    "export.backends.aotinductor",
    "export.backends.onnx",
    "export.backends.openvino",
)
"""Modules with a tuple ``BACKENDS``, in the order of tables."""
STANDARD = ("eager", "torchscript", "exported", "compile", "aotinductor", "onnx")
"""Those that a recipe gets if it does not say."""
BASELINE = "eager"
"""Whose times and errors are the units."""
GROUP = "torchstone.backends"


@dataclass(frozen=True)
class Registered:
    """A backend, and the module that registers it."""

    backend: Backend
    module: str


@cache
def registered() -> dict[str, Registered]:
    """Every backend by name, in the order of tables.

    Raises:
        UserError: a plug-in that cannot be imported, is no backend, or takes a name that is taken.
    """
    known = {
        backend.name: Registered(backend, family)
        for family in FAMILIES
        for backend in importlib.import_module(family).BACKENDS
    }
    for entry in metadata.entry_points(group=GROUP):
        for backend in _plugged_in(entry):
            if backend.name in known:
                raise UserError(f"the plug-in {entry.value} adds the backend {backend.name!r}, which there is already")
            known[backend.name] = Registered(backend, entry.module)
    return known


def names() -> tuple[str, ...]:
    """The names of all backends, in the order of tables."""
    return tuple(registered())


def get(name: str) -> Backend:
    """One backend.

    Raises:
        UserError: an unknown name.
    """
    if name not in registered():
        raise UserError(f"backend must be one of {', '.join(names())}, got {name!r}")
    return registered()[name].backend


def of_foreign(file: Path) -> tuple[Backend, ForeignFormat]:
    """The backend that runs a file which another tool made, and how it is taken in.

    Raises:
        UserError: no backend takes such files; says which are taken.
    """
    formats = [(entry.backend, entry.backend.foreign) for entry in registered().values() if entry.backend.foreign]
    for backend, foreign_format in formats:
        if foreign_format.is_format_of(file):
            return backend, foreign_format
    suffixes = dict.fromkeys(suffix for _, foreign_format in formats for suffix in foreign_format.suffixes)
    raise UserError(f"{file} must end in {', '.join(suffixes)}: its end says its format")


def load(folder: Path, options: LoadOptions, module: Callable[[], nn.Module] | None = None) -> Runner:
    """Verify an artifact's files, then make it callable.

    ``module`` builds the user's module where that is allowed; source-free backends never call it.

    Raises:
        RecordError: a file is missing or altered: nothing of it was loaded.
        UserError: an option that its runtime does not have.
    """
    artifact = open_artifact(folder)
    backend = get(artifact.backend)
    backend.runtime_options(options)
    return Runner(artifact, backend.load(artifact, folder, options, module or _no_module), options)


def plugin_sha256(name: str) -> str | None:
    """Digest of the file that registers a plug-in's backend; None for one of ours, which the tools' digest holds."""
    module = registered()[name].module
    return None if module in FAMILIES else digest_file(Path(inspect.getfile(importlib.import_module(module))))


def plugin_packages() -> frozenset[str]:
    """The top-level packages of installed plug-ins; none of them is imported."""
    return frozenset(entry.module.partition(".")[0] for entry in metadata.entry_points(group=GROUP))


def _plugged_in(entry: metadata.EntryPoint) -> tuple[Backend, ...]:
    try:
        loaded = entry.load()
    except Exception as error:  # a package of others may raise anything while it is imported; the cause is kept
        raise UserError(
            f"the plug-in {entry.value} (entry point of {GROUP}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    backends = loaded if isinstance(loaded, tuple) else (loaded,)
    if not all(isinstance(backend, Backend) for backend in backends):
        raise UserError(f"the plug-in {entry.value} must be an export.backend.Backend or a tuple of them")
    return backends


def _no_module() -> nn.Module:
    raise UserError("this artifact needs the model's source, which this process was not given")
