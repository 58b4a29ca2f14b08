"""One of the two runs, read from its records alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.run_folder import RunFolder
from bench.timing.cold import ColdStart
from bench.timing.measurement import Measurement, SessionRecord
from bench.verdict.figures import Rounds
from bench.verdict.judge import Row, Verdict
from export.errors import UserError
from export.files import digest_file
from export.record import read
from export.registry import BASELINE
from pipeline.commands.named import find_run
from pipeline.report import text
from pipeline.run import RecipeRecord

Key = tuple[str, int]
"""An artifact's row, and the rows of a batch."""


@dataclass(frozen=True)
class Side:
    """A finished run."""

    label: str
    """As the user named it."""
    files: RunFolder

    @classmethod
    def of(cls, named: str, out: Path) -> Side:
        """The run behind a folder, a recipe's name or ``recipe@key``.

        Raises:
            UserError: there is none, or it has no verdict.
        """
        files = find_run(named, out)
        if not files.verdict.exists():
            raise UserError(f"{named} has no verdict to compare: the same command that began it goes on to one")
        return cls(named, files)

    @cached_property
    def record(self) -> RecipeRecord:
        """What the run depends on."""
        return read(RecipeRecord, self.files.recipe_record)

    @cached_property
    def verdict(self) -> Verdict:
        """What it came to."""
        return read(Verdict, self.files.verdict)

    @property
    def weights_sha256(self) -> str:
        """The digest of the checkpoint's record."""
        return digest_file(self.files.checkpoint_record)

    @cached_property
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
    def measured(self) -> list[Key]:
        """What was timed, eager aside."""
        return [(name, it.batch_rows) for name, row in self.rows.items() if name != BASELINE for it in row.speeds]

    @cached_property
    def logs(self) -> Mapping[Key, list[float]]:
        """Per process, the log of a time over eager's in the same round; nothing without an eager that was measured."""
        rounds = self.rounds
        return {} if rounds is None or BASELINE not in rounds.measurements else rounds.logs_to(BASELINE)

    @cached_property
    def noise(self) -> Mapping[int, float]:
        """By batch size, what an artifact differed from itself, as a log-ratio."""
        return {} if self.rounds is None else self.rounds.noise_floors()

    def why_not(self, key: Key) -> str | None:
        """Why a time is not among ``logs``; None if it is."""
        if key in self.logs:
            return None
        rounds = self.rounds
        if rounds is None or key not in rounds.samples:
            return "not measured"
        if BASELINE not in rounds.measurements:
            return "no eager was measured beside it"
        spoilt = rounds.spoilt(*key) or rounds.spoilt(BASELINE, key[1])
        return spoilt or "no steady state"

    def starts(self, name: str) -> list[float]:
        """Per cold start, the log of its time over eager's of the same round; nothing where one of them has no such."""
        own, baseline = self._cold_starts(name), self._cold_starts(BASELINE)
        if len(own) != len(baseline):
            return []
        return [math.log(start.total_s / unit.total_s) for start, unit in zip(own, baseline, strict=True)]

    def peaks_bytes(self, name: str) -> list[int]:
        """Per cold start, the peak of the resident set after a call at every batch size."""
        return [start.peak_bytes for start in self._cold_starts(name) if start.peak_bytes]

    def median_s(self, key: Key) -> float | None:
        """A time as the verdict has it; None where it has none of its own."""
        name, rows = key
        speed = text.speed_at(self.rows[name], rows) if name in self.rows else None
        return speed.median_s if speed and speed.spoilt is None else None

    def start_s(self, name: str) -> float | None:
        """From no process to the first answer."""
        cold = self.rows[name].cold if name in self.rows else None
        return cold.total_s if cold else None

    @property
    def baseline_s(self) -> Mapping[int, float]:
        """Eager's times by batch size."""
        row = self.rows.get(BASELINE)
        return {speed.batch_rows: speed.median_s for speed in (row.speeds if row else ()) if speed.spoilt is None}

    def _cold_starts(self, name: str) -> Sequence[ColdStart]:
        measured = self.rounds.measurements if self.rounds else {}
        return measured[name].cold_starts if name in measured else ()
