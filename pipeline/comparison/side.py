"""One of the two runs, read from its records alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.run_folder import RunFolder
from bench.timing.measurement import Measurement, SessionRecord
from bench.verdict.figures import Rounds
from bench.verdict.judge import Row, Verdict
from export.errors import UserError
from export.record import read
from export.registry import BASELINE
from pipeline.run import RecipeRecord, find_run

Key = tuple[str, int]
"""An artifact's row, and the rows of a batch."""


@dataclass(frozen=True)
class Side:
    """A finished run."""

    label: str
    """As the user named it."""
    files: RunFolder

    @classmethod
    def of(cls, text: str, out: Path) -> Side:
        """The run behind a folder, a recipe's name or ``recipe@key``.

        Raises:
            UserError: there is none, or it has no verdict.
        """
        files = find_run(text, out)
        if not files.verdict.exists():
            raise UserError(f"{text} has no verdict to compare: the same command that began it goes on to one")
        return cls(text, files)

    @cached_property
    def record(self) -> RecipeRecord:
        """What the run depends on."""
        return read(RecipeRecord, self.files.recipe_record)

    @cached_property
    def verdict(self) -> Verdict:
        """What it came to."""
        return read(Verdict, self.files.verdict)

    @property
    def rows(self) -> Mapping[str, Row]:
        """By name."""
        return {row.name: row for row in self.verdict.rows}

    @property
    def places(self) -> Mapping[str, str]:
        """What times depend on besides the model: machine, device, and the versions that eager is made of."""
        machine = self.record.environment["machine"]
        versions = self.record.environment["versions"]
        return {
            "processor": str(machine["cpu"]),
            "cores": str(machine["cores_count"]),
            "GPUs": ", ".join(machine["gpus"]) or "none",
            "device": self.record.device,
            "torch": str(versions.get("torch", "none")),
        }

    @cached_property
    def rounds(self) -> Rounds | None:
        """The samples; None where nothing was measured."""
        if not self.files.session.exists():
            return None
        session = read(SessionRecord, self.files.session)
        places = {row.name: self.files.measurement(row.name) for row in self.verdict.rows if row.speeds}
        return Rounds(session, {name: read(Measurement, path) for name, path in places.items()})

    @property
    def logs(self) -> Mapping[Key, list[float]]:
        """Per process, the log of a time over eager's in the same round; nothing without an eager that was measured."""
        rounds = self.rounds
        return {} if rounds is None or BASELINE not in rounds.measurements else rounds.logs_to(BASELINE)

    @property
    def noise(self) -> Mapping[int, float]:
        """By batch size, what an artifact differed from itself, as a log-ratio."""
        return {} if self.rounds is None else self.rounds.noise_floors()

    def starts(self, name: str) -> list[float]:
        """Per cold start, the log of its time over the median of eager's; nothing where either was not measured."""
        measured = self.rounds.measurements if self.rounds else {}
        if name not in measured or BASELINE not in measured:
            return []
        baseline = [start.total_s for start in measured[BASELINE].cold_starts]
        if not baseline:
            return []
        unit_s = statistics.median(baseline)
        return [math.log(start.total_s / unit_s) for start in measured[name].cold_starts]
