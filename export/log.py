"""What a process prints, kept within bounds: the first of it as it comes, the last of it at the end."""

from __future__ import annotations

import contextlib
import os
from collections import deque

HEAD_BYTES, TAIL_BYTES = 5 << 20, 5 << 20


class BoundedLog:
    """Writes to a descriptor. What lies between the head and the tail is counted and dropped."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._left_bytes = HEAD_BYTES
        self._tail: deque[bytes] = deque()
        self._kept_bytes = self._dropped_bytes = 0

    def add(self, chunk: bytes) -> None:
        """What was printed next."""
        head, rest = chunk[: self._left_bytes], chunk[self._left_bytes :]
        self._left_bytes -= len(head)
        self._write(head)
        if rest:
            self._tail.append(rest)
            self._kept_bytes += len(rest)
        while self._kept_bytes - len(self._tail[0] if self._tail else b"") > TAIL_BYTES:
            dropped = len(self._tail.popleft())
            self._kept_bytes -= dropped
            self._dropped_bytes += dropped

    def close(self) -> None:
        """Nothing follows."""
        if self._dropped_bytes:
            self._write(f"\n[... {self._dropped_bytes} bytes are not kept ...]\n".encode())
        for chunk in self._tail:
            self._write(chunk)
        self._tail.clear()

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the disk is full: who printed it must be heard out all the same
            while data:
                data = data[os.write(self._descriptor, data) :]
