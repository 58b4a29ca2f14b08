"""The ``torch.export`` program itself, run as PyTorch runs it: portable between machines, not compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.backend import BuildInput, Loaded, LoadOptions
from export.device import device
from export.environment import version
from export.foreign.graphs import ProgramFormat, call_of_program
from export.runtimes.torch import TorchBackend

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact
    from export.contents import Contents
    from export.taps import Taps
    from export.taps.trace import Trace

FILE = "model.pt2"


@dataclass(frozen=True, kw_only=True)
class Exported(TorchBackend):
    """The captured program as a file."""

    exporter: str = "export"
    file: str | None = FILE
    modules: tuple[str, ...] = ("torch", "torch.export")
    deployment_rank: int = 70

    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """The program as captured."""
        shutil.copyfile(source.program_file, folder / FILE)
        return {"form": "torch.export program"}

    def contents(self, artifact: Artifact, folder: Path) -> Contents | None:
        """The program's own weights and nodes."""
        from export.contents import of_program
        from export.program import load_exported

        return of_program(load_exported(folder / FILE), "exported program")

    def needs(self, artifact: Artifact, folder: Path) -> dict[str, str]:
        """The very minor version of torch: the format changes between them."""
        return {"torch": f"=={(version('torch') or '').partition('+')[0]}"}

    def taps(self, folder: Path, trace: Trace, options: LoadOptions) -> Taps | None:
        """The artifact's own program, node by node."""
        from export.program import load_exported
        from export.taps.graph import GraphTaps

        return GraphTaps(load_exported(folder / FILE), trace)

    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """The program on the device, with its own guards."""
        from export.program import checked_call, load_exported, on_device

        program = on_device(load_exported(folder / FILE), device(options.device))
        if artifact.is_foreign:
            return self.session(call_of_program(program, artifact.signature, artifact.facts), options)
        return self.session(checked_call(program), options)


BACKENDS = (Exported(name="exported", foreign=ProgramFormat(main_file=FILE)),)
