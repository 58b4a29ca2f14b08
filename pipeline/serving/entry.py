"""A model that is served: where it comes from, the version that answers, and the one that should."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from export.errors import UserError
from pipeline.bundle import releases
from pipeline.serving.batcher import Batcher
from pipeline.serving.metrics import ModelMetrics
from pipeline.serving.model import Model
from pipeline.verifier.files import MANIFEST

_ONLY_VERSION = "1"
"""What the version of a bundle is called that does not lie in a serving folder."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    place: Path
    """A bundle, or a serving folder."""

    @property
    def has_releases(self) -> bool:
        """Whether it is a serving folder, in which versions come and go."""
        return not (self.place / MANIFEST).is_file() and (self.place / releases.CURRENT).is_symlink()

    def current(self) -> tuple[Path, str]:
        """The bundle that is to serve, and its version.

        Raises:
            UserError: there is none.
        """
        if not self.has_releases:
            if not self.place.is_dir():
                raise UserError(f"there is no folder {self.place}: name a bundle, or a serving folder")
            return self.place, _ONLY_VERSION
        version = releases.current(self.place)
        return self.place / str(version), str(version)


@dataclass(frozen=True)
class Served:
    """One version of a model, ready to be asked."""

    model: Model
    batcher: Batcher
    metrics: ModelMetrics

    def close(self) -> None:
        """Free it; the call at hand, if there is one, goes on to its end."""
        self.batcher.end()
        self.model.close()


@dataclass
class Entry:
    """One model by its name."""

    source: Source
    served: Served | None
    """None while it is unloaded."""
    refused: str = ""
    """Why the version that should serve does not; empty if it does."""
    tried: str = ""
    """The version that was last tried."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_ready(self) -> bool:
        """Whether it answers."""
        return self.served is not None and not self.served.batcher.is_stuck
