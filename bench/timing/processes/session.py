"""A session: what is measured together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.timing.spec import BenchSpec
from export.backend import LoadOptions
from export.build import Source


@dataclass(frozen=True, kw_only=True)
class Session:
    """What to measure together, and how."""

    folders: Mapping[str, Path]
    """The artifacts' folders by name."""
    options: Mapping[str, LoadOptions]
    """The settings with which each passed parity."""
    source: Source
    program: Path | None
    """The folder of the traced program, for the roofline."""
    spec: BenchSpec
    samples: Path | None
    seed: int
    key: str

    @property
    def samples_file(self) -> str | None:
        """Real rows, and what functions drew, as a job names the file."""
        return str(self.samples) if self.samples else None
