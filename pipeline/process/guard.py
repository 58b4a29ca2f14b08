"""The process of a command is led by another, which has a word for every way that it can end.

A recipe is imported, its data loaded, its model first called in this process. The user's code may leave by itself
(``os._exit``), crash or hang, and takes the process with it. Its leader (Linux: export/leader.py) runs none of that
code: it knows what is under way and within which limits, says what became of it, and leaves with code 2.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from export.worker import ProcessLimits, memory_limit_bytes, signal_name

if TYPE_CHECKING:
    from export.leader import Member

USAGE = 2
_POLL_S = 0.25
_MOURN_S = 5.0
"""How long a process may write down where it was, once it is to abort."""
_LEAVE_S = 30.0
"""How long it may take to leave, once its command has ended: a thread of the user's may go on for ever."""


class _Line:
    """Where this process tells its leader what it does; None where there is no leader."""

    descriptor: int | None = None

    @classmethod
    def tell(cls, **fields: object) -> None:
        if cls.descriptor is not None:
            with contextlib.suppress(OSError):  # the user's code has closed it: then its end is without a word
                os.write(cls.descriptor, json.dumps(fields).encode() + b"\n")


@contextlib.contextmanager
def under_way(what: str, limits: ProcessLimits | None = None) -> Iterator[None]:
    """While code of the user's runs: what to call it should the process end, and what it may use; no limits if None."""
    bounds = {} if limits is None else {"wall_s": limits.wall_s, "memory_bytes": memory_limit_bytes(limits)}
    _Line.tell(what=what, **bounds)
    try:
        yield
    finally:
        _Line.tell(what=None)


def guarded(command: Callable[[], int]) -> int:
    """What the command returns; if its process ends otherwise, one sentence on standard error, and code 2.

    On Linux it runs in a new process. To be called before there are threads.
    """
    if sys.platform != "linux":
        return command()
    from export import leader

    source, sink = os.pipe()

    def follow(member: Member) -> int:
        os.close(sink)
        return _Watch(member, source).follow()

    leader.lead(follow)
    os.close(source)
    _Line.descriptor = sink
    with contextlib.suppress(OSError, ValueError):
        faulthandler.enable()  # where a crash happened is printed
    code = USAGE
    try:
        code = command()
    except SystemExit as error:  # of the parser of flags
        code = error.code if isinstance(error.code, int) else 1 if error.code else 0
        raise
    finally:
        _Line.tell(code=code)
    return code


@dataclass
class _Watch:
    """The leader's side."""

    member: Member
    source: int | None
    what: str | None = None
    wall_s: float | None = None
    memory_bytes: int | None = None
    final_code: int | None = None
    _spent_s: float = 0.0
    """Since ``what`` began; not while this process itself was stopped."""
    _buffer: bytearray = field(default_factory=bytearray)

    def follow(self) -> int:
        looked_s = time.monotonic()
        while self.member.code is None:
            heard = self.member.wait(self.source, None if self._is_free else _POLL_S)
            if heard:
                self._hear(heard)
            elif heard is not None:
                self.source = None
            now_s = time.monotonic()
            self._spent_s += min(now_s - looked_s, 2 * _POLL_S)
            looked_s = now_s
            if self.final_code is not None and self._spent_s > _LEAVE_S:
                return self.final_code
            if self.member.code is None and (excess := self._excess()):
                self._abort()
                return _say(f"{self.what} {excess}")
        self._drain()
        return self._verdict(self.member.code)

    @property
    def _is_free(self) -> bool:
        """Whether it may take what time it likes."""
        return self.wall_s is None and self.final_code is None

    def _verdict(self, code: int) -> int:
        """The code to leave with, and a word where the process did not end as a command does."""
        if self.final_code is not None:
            return self.final_code
        if code < 0 and self.member.asked == -code:
            return code
        what = self.what or "the command"
        if code < 0:
            likely = ": the machine may be out of memory" if -code == signal.SIGKILL else ""
            return _say(f"{what} crashed: killed by {signal_name(-code)}{likely}")
        return _say(f"{what} ended the process with code {code}: a recipe's code must return, or raise what is wrong")

    def _excess(self) -> str | None:
        """How the user's code exceeds what it may use."""
        if self.wall_s is not None and self._spent_s > self.wall_s:
            return f"did not end within its limit of {self.wall_s:g} s (the recipe's process.wall_s)"
        used = psutil.Process(self.member.pid).memory_info().rss
        if self.memory_bytes is not None and used > self.memory_bytes:
            return (
                f"takes {used >> 20} MiB, more than its limit of {self.memory_bytes >> 20} MiB "
                "(the recipe's process.memory_bytes)"
            )
        return None

    def _abort(self) -> None:
        """End the process, which first prints where it was."""
        os.kill(self.member.pid, signal.SIGABRT)
        deadline_s = time.monotonic() + _MOURN_S
        while self.member.code is None and time.monotonic() < deadline_s:
            self.member.wait(None, _POLL_S)

    def _hear(self, heard: bytes) -> None:
        self._buffer += heard
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            news: dict[str, Any] = json.loads(line)
            self.final_code = news.get("code")
            self.what = news.get("what")
            self.wall_s, self.memory_bytes = news.get("wall_s"), news.get("memory_bytes")
            self._spent_s = 0.0

    def _drain(self) -> None:
        """What was sent and not yet heard."""
        if self.source is not None:
            os.set_blocking(self.source, False)
            with contextlib.suppress(BlockingIOError):
                while heard := os.read(self.source, 1 << 16):
                    self._hear(heard)


def _say(text: str) -> int:
    from pipeline.verifier.outcome import printable_lines

    with contextlib.suppress(OSError, ValueError):
        print(printable_lines(f"error: {text}"), file=sys.stderr)
    return USAGE
