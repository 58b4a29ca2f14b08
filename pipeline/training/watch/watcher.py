"""All that is seen of one training: its files, the bar, and who else is told of its figures."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.device import Device
from pipeline.training.spec import TrainSpec
from pipeline.training.state.resume import State
from pipeline.training.state.training import Counters
from pipeline.training.watch.journal import Journal
from pipeline.training.watch.progress import Progress
from pipeline.training.watch.stopwatch import Stopwatch
from pipeline.training.watch.tracing import Tracing
from pipeline.training.watch.trackers import trackers

_SHOW_S = 0.25
"""How often the bar moves."""
_SPEED_S = 1.0
"""Least time between two lines of ``speed.jsonl``."""


class Watcher:
    """Watches from where a training begins, or goes on, to its end.

    Raises:
        RecordError: ``metrics.jsonl`` is not what the saved state says, from which the training would go on.
        UserError: a tracker's package is not installed.
    """

    def __init__(self, spec: TrainSpec, where: Device, folder: Path, progress: Progress, state: State | None) -> None:
        self._spec, self._progress = spec, progress
        self._journal = Journal(folder, state.position if state else None)
        self._trackers = trackers(spec, folder, state.step if state else None)
        self._tracing = Tracing(folder, enabled=spec.profile)
        self.stopwatch = Stopwatch(where)
        self._shown_s = self._speed_s = time.monotonic()

    def position(self) -> dict[str, Any]:
        """How far ``metrics.jsonl`` is written."""
        return self._journal.position()

    def note(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step or of an epoch, into ``metrics.jsonl`` and wherever else they are wanted."""
        self._journal.note(figures)
        for tracker in self._trackers:
            tracker.note(step, figures)
        if time.monotonic() - self._speed_s >= _SPEED_S:
            self.note_speed(step)

    def note_speed(self, step: int) -> None:
        """How fast it went since the last line, if it went at all."""
        if not self.stopwatch.rows_count:
            return
        figures = self.stopwatch.read()
        self._journal.note_speed({"step": step, **figures})
        for tracker in self._trackers:
            tracker.note(step, figures)
        self._speed_s = time.monotonic()

    def step(self, now: Counters, steps_count: int | None, loss: float) -> None:
        """A step is done; ``steps_count``: of an epoch, where that is known."""
        self._tracing.step()
        if steps_count is not None:
            self.show(now.epoch + now.epoch_step / steps_count, loss)

    def show(self, epochs: float, loss: float, *, at_once: bool = False) -> None:
        """Move the bar, if it is time to, or ``at_once``."""
        if not at_once and time.monotonic() - self._shown_s < _SHOW_S:
            return
        note = f"loss {loss:.4g}, {self.stopwatch.rows_per_s():,.0f} rows/s"
        self._progress.advance(epochs, self._spec.epochs, note)
        self._shown_s = time.monotonic()

    def close(self) -> None:
        """Whole files."""
        with ExitStack() as stack:
            stack.callback(self._journal.close)
            stack.callback(self._tracing.close)
            for tracker in self._trackers:
                stack.callback(tracker.close)


def unwatched(spec: TrainSpec, where: Device) -> Watcher:
    """For a process whose figures are those of another: nothing that it writes stays."""
    progress = Progress(say=lambda text: None, advance=lambda done, total, note: None)
    spec = replace(spec, tensorboard=False, mlflow=False, profile=False)
    with tempfile.TemporaryDirectory() as folder:  # the open files outlive their names
        return Watcher(spec, where, Path(folder), progress, None)
