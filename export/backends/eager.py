"""The user's own module, called as it is: the baseline. It needs the source, builds no file and never ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.backend import Backend, BuildInput, Loaded, LoadOptions
from export.device import device

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class Eager(Backend):
    """The module on the device, in eval mode."""

    exporter: str = "none"
    source_free: bool = False
    needs_program: bool = False
    build_cost: int = 0

    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """Nothing to build."""
        return {"form": "the module itself"}

    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """The module behind flat tensors."""
        from export.flat import FlatModule
        from export.runtimes.torch import TorchSession

        on_device = module().to(device(options.device).torch_name).eval()
        return TorchSession(FlatModule(on_device, artifact.signature), options)


BACKENDS = (Eager(name="eager"),)
