"""What lies where in a run: the one place that spells it. FORMAT.md describes the same layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.artifact import PROGRAM_RECORD, RECORD
from export.files import plain_name

WEIGHTS, METRICS, CHECKPOINT_RECORD = "weights.safetensors", "metrics.jsonl", "checkpoint.json"
"""What a checkpoint's folder holds."""
LAST = "last.safetensors"
"""And where the weights are the best epoch's, those of the last."""
SPEED, TRACE = "speed.jsonl", "trace.json"
"""And what of its making is in no digest: seconds and memory of every epoch, and a trace by PyTorch's profiler."""
_HIDDEN = "."


@dataclass(frozen=True)
class RunFolder:
    """``artifacts/<recipe>/<key12>/``; nothing of it need exist.

    Names of artifacts may come out of records: one that would lead out of the run is a ``RecordError``.
    """

    path: Path

    @property
    def lock(self) -> Path:
        """What whoever works in the run has locked."""
        return self.path / ".lock"

    @property
    def recipe_record(self) -> Path:
        """Everything that the run depends on."""
        return self.path / "recipe.json"

    @property
    def recipe_name(self) -> str:
        """The recipe's, which is that of the folder around its runs."""
        return self.path.parent.name

    @property
    def log(self) -> Path:
        """A folder: the children's logs, and the scripts that reproduce their failures."""
        return self.path / "log"

    @property
    def checkpoint(self) -> Path:
        """A stage's folder: trained weights, metrics of every epoch, and their record."""
        return self.path / "checkpoint"

    @property
    def checkpoint_record(self) -> Path:
        """The checkpoint's record."""
        return self.checkpoint / CHECKPOINT_RECORD

    @property
    def weights(self) -> Path:
        """Safetensors under the module's own names."""
        return self.checkpoint / WEIGHTS

    @property
    def metrics(self) -> Path:
        """Figures of the training, a JSON object a line."""
        return self.checkpoint / METRICS

    @property
    def training_speed(self) -> Path:
        """Seconds and memory of the training, a JSON object for each stretch of it."""
        return self.checkpoint / SPEED

    @property
    def calibration_rows(self) -> Path:
        """Training rows from which int8 takes its ranges, as safetensors."""
        return self.path / "calibration.safetensors"

    @property
    def program(self) -> Path:
        """A stage's folder: the traced program and its record."""
        return self.path / "program"

    @property
    def program_record(self) -> Path:
        """The traced program's record."""
        return self.program / PROGRAM_RECORD

    def artifact(self, name: str) -> Path:
        """A stage's folder: one artifact's files and record."""
        return self.path / "artifacts" / plain_name(name)

    def artifact_names(self) -> list[str]:
        """Those that were built, sorted."""
        return sorted(
            record.parent.name
            for record in self.path.glob(f"artifacts/*/{RECORD}")
            if not record.parent.name.startswith(_HIDDEN)
        )

    def refused_roads(self, artifact: str) -> Path:
        """The roads by which one artifact was not built, since parity refused what they build."""
        return self.path / "roads" / plain_name(f"{artifact}.json")

    @property
    def parity(self) -> Path:
        """A folder: the reference, a report per artifact, the calibration."""
        return self.path / "parity"

    def parity_report(self, artifact: str) -> Path:
        """One artifact's parity report."""
        return self.parity / plain_name(f"{artifact}.json")

    def parity_as_asked(self, artifact: str) -> Path:
        """Its report with the settings that were asked for; only there where it is compared with others."""
        return self.parity / "as-asked" / plain_name(f"{artifact}.json")

    def parity_reports(self) -> dict[str, Path]:
        """The reports that there are, by artifact."""
        names = (path.stem for path in sorted(self.parity.glob("*.json")))
        return {name: self.parity_report(name) for name in names if self.parity_report(name) != self.calibration}

    @property
    def calibration(self) -> Path:
        """What calibrating parity on this model found; only there if that was asked for."""
        return self.parity / "calibration.json"

    @property
    def reference(self) -> Path:
        """A stage's folder: the inputs of every parity case, and the model's own answers."""
        return self.parity / "reference"

    @property
    def reference_record(self) -> Path:
        """The reference's record."""
        return self.reference / "reference.json"

    @property
    def samples(self) -> Path:
        """What parity and measurement call with, as safetensors: real rows, if the recipe has data, and what functions
        drew for the calls that are timed, if it has such functions.
        """
        return self.reference / "samples.safetensors"

    def existing_samples(self) -> Path | None:
        """The samples; None if there are none."""
        return self.samples if self.samples.exists() else None

    def tuning(self, artifact: str) -> Path:
        """The settings found fastest for one artifact; only there if that was asked for."""
        return self.path / "tuning" / plain_name(f"{artifact}.json")

    def measurement(self, artifact: str) -> Path:
        """One artifact's raw samples."""
        return self.path / "measurements" / plain_name(f"{artifact}.json")

    @property
    def session(self) -> Path:
        """What the measurements share; beside them, so that no artifact can be called so."""
        return self.measurement("session")

    def load_report(self, artifact: str) -> Path:
        """What one artifact stood under load; only there if that was asked for."""
        return self.path / "load" / plain_name(f"{artifact}.json")

    @property
    def verdict(self) -> Path:
        """The end of a run."""
        return self.path / "verdict.json"

    @property
    def page(self) -> Path:
        """The report that people read."""
        return self.path / "report.html"

    @property
    def bundle(self) -> Path:
        """A stage's folder: what is shipped; only there if the verdict is good."""
        return self.path / "bundle"
