"""How far the reading of a bundle is, for a person at a terminal."""

from __future__ import annotations

import sys
import threading
import time

_BAR_AFTER_S = 1.0


class ProgressBar:
    """How far the reading of files is, as a bar on a terminal; nothing in the first second."""

    def __init__(self, total_bytes: int, quiet: bool) -> None:
        self._total_bytes, self._done_bytes, self._began_s = max(total_bytes, 1), 0, time.monotonic()
        self._lock, self._printed_s = threading.Lock(), 0.0
        self._shown = not quiet and sys.stderr.isatty()

    def add(self, more_bytes: int) -> None:
        """So many more bytes were read."""
        with self._lock:
            self._done_bytes += more_bytes
            now = time.monotonic()
            if self._shown and now - self._began_s > _BAR_AFTER_S and now - self._printed_s > 0.1:
                self._printed_s = now
                share = self._done_bytes / self._total_bytes
                left_s = (now - self._began_s) * (1 / max(share, 1e-9) - 1)
                filled = "#" * int(30 * share)
                print(f"\rhashes      [{filled:<30}] {share:4.0%}, {left_s:.0f} s left ", end="", file=sys.stderr)

    def end(self) -> None:
        """Take the bar away."""
        if self._printed_s:
            print("\r" + " " * 70 + "\r", end="", file=sys.stderr)
