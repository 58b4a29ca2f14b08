"""An artifact's files and the traced program beside them, each read once, when a check first asks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from export import registry
from export.artifact import Artifact, verified_program

if TYPE_CHECKING:
    import torch

    from export.contents import Contents


@dataclass(frozen=True)
class Opened:
    """What checks of weights and settings look at; nothing in it may be altered."""

    artifact: Artifact
    folder: Path
    """The artifact's, verified."""
    program: Path | None
    """The traced program's folder; None if the model could not be traced."""

    @cached_property
    def contents(self) -> Contents | None:
        """The artifact's weights and settings; None if it keeps none of its own."""
        return registry.get(self.artifact.backend).contents(self.artifact, self.folder)

    @cached_property
    def traced(self) -> torch.export.ExportedProgram | None:
        """The traced program.

        Raises:
            RecordError: its file is missing or altered.
        """
        from export.program import load_exported

        return load_exported(verified_program(self.program)) if self.program else None
