"""The user's own module, called as it is: the baseline. It needs the source, builds no file and never ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.backend import TorchLoaded

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact
    from export.backend import BuildInput, Loaded, LoadOptions, Threads
    from export.contents import Contents

SOURCE_FREE = False
DEVICE_BOUND = False
NEEDS_PROGRAM = False
PACKAGES = ("torch",)
MODULES = ("torch",)
THREADS: Threads = "process"


def unavailable(device: str) -> str | None:
    """Eager runs wherever torch does."""
    return None


def build(source: BuildInput, folder: Path) -> dict[str, str]:
    """Nothing to build."""
    return {"form": "the module itself"}


def contents(artifact: Artifact, folder: Path) -> Contents | None:
    """Nothing: the weights are the checkpoint's own."""
    return None


def load(artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
    """The module on the device, in eval mode, behind flat tensors."""
    from export.program import FlatModule

    return TorchLoaded(FlatModule(module().to(options.device).eval(), artifact.signature), options)
