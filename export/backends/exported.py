"""The ``torch.export`` program itself, run as PyTorch runs it: portable between machines, not compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.backend import TorchLoaded

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact
    from export.backend import BuildInput, Loaded, LoadOptions, Threads
    from export.contents import Contents

SOURCE_FREE = True
DEVICE_BOUND = False
NEEDS_PROGRAM = True
PACKAGES = ("torch",)
MODULES = ("torch", "torch.export")
THREADS: Threads = "process"
FILE = "model.pt2"


def unavailable(device: str) -> str | None:
    """``torch.export`` is part of torch."""
    return None


def build(source: BuildInput, folder: Path) -> dict[str, str]:
    """The program as captured."""
    shutil.copyfile(source.program_file, folder / FILE)
    return {"form": "torch.export program"}


def contents(artifact: Artifact, folder: Path) -> Contents | None:
    """The program's own weights and nodes."""
    from export.contents import of_program
    from export.program import load_exported

    return of_program(load_exported(folder / FILE), "exported program")


def load(artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
    """The program's module on the device, with its own input guards."""
    from export.program import load_exported, on_device

    return TorchLoaded(on_device(load_exported(folder / FILE), options.device).module(), options)
