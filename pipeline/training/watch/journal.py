"""The figures of a training as they come: ``metrics.jsonl``, and ``speed.jsonl`` for what no two trainings share.

``metrics.jsonl`` is part of the result: the same training writes the same bytes, interrupted or not. Where a training
goes on from a saved state, lines from after that state are cut off first. Seconds and memory lie in ``speed.jsonl``,
outside of every digest, which keeps them all.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from bench.run_folder import METRICS, SPEED
from export.errors import RecordError
from export.record import sha256

Figures = Mapping[str, float]
_FLUSH_S = 0.005
"""Lines that follow each other faster are written together: each by itself would cost a small step too much."""


class Journal:
    """The open files of one training."""

    def __init__(self, folder: Path, position: Mapping[str, Any] | None = None) -> None:
        """Begin anew, or go on after the lines that ``position`` vouches for.

        Raises:
            RecordError: ``metrics.jsonl`` does not begin with those.
        """
        path = folder / METRICS
        kept = _kept(path, position) if position else b""
        self._digest, self._size_bytes = hashlib.sha256(kept), len(kept)
        self._metrics: IO[bytes] = path.open("r+b" if position else "wb")
        self._metrics.truncate(len(kept))
        self._metrics.seek(len(kept))
        self._flushed_s, self._after_step = 0.0, False
        self._speed: IO[bytes] = (folder / SPEED).open("ab" if position else "wb")

    def position(self) -> dict[str, Any]:
        """How far ``metrics.jsonl`` is written, and on the disk."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        return {"size_bytes": self._size_bytes, "sha256": self._digest.hexdigest()}

    def note(self, figures: Figures) -> None:
        """A line of ``metrics.jsonl``; what is not finite is null."""
        line = _line(figures)
        self._metrics.write(line)
        ends_epoch = self._after_step and "step" not in figures
        if (now_s := time.monotonic()) - self._flushed_s >= _FLUSH_S or ends_epoch:
            self._metrics.flush()
            self._flushed_s = now_s
        self._after_step = "step" in figures
        self._digest.update(line)
        self._size_bytes += len(line)

    def note_speed(self, figures: Figures) -> None:
        """A line of ``speed.jsonl``."""
        self._speed.write(_line(figures))
        self._speed.flush()

    def close(self) -> None:
        """Both files, as they are."""
        self._metrics.close()
        self._speed.close()


def check_lines(folder: Path, position: Mapping[str, Any]) -> None:
    """See that ``metrics.jsonl`` begins with the lines that ``position`` vouches for.

    Raises:
        RecordError: it does not.
    """
    _kept(folder / METRICS, position)


def _kept(path: Path, position: Mapping[str, Any]) -> bytes:
    try:
        with path.open("rb") as file:
            kept = file.read(position["size_bytes"])
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    if sha256(kept) != position["sha256"]:
        raise RecordError(f"{path} does not begin with the lines that were saved")
    return kept


def _line(figures: Figures) -> bytes:
    plain = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    return json.dumps(plain).encode() + b"\n"
