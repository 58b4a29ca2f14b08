"""A process that leads another: however one of the two ends, nothing that they started is left running.

The leader runs nothing of the user's: it waits. When its member has ended it ends what that left below it, also what
took a session of its own; when its own parent is killed it ends them all. When the leader is killed its member dies
with it. This needs Linux (``prctl``); elsewhere there is no leader, and an orphan ends with its work.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STUBBORN_S = 10.0
"""How long a killed process may take to be gone: one in the kernel's hands cannot be waited for."""


def die_with_parent(signal_number: int, parent_pid: int) -> None:
    """Have this signal sent to this process when its parent ends, or now if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal_number)


def lead(follow: Callable[[Member], int]) -> None:
    """Fork: the new process goes on from here, and dies with this one; this one never returns.

    It does ``follow``, which waits for the member and answers its exit code, or minus a signal; then it ends what is
    left below it, and leaves in the same way. To be called before there are threads.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    leader_pid = os.getpid()
    pid = os.fork()
    if not pid:
        die_with_parent(signal.SIGKILL, leader_pid)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _Interruption())
        return
    code = 1
    try:
        code = follow(Member(pid))
    finally:
        end_all()
        _leave_like(code)


class Member:
    """The process that is led."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.asked: int | None = None
        """The signal by which the leader was last asked to end it."""
        self._status: int | None = None
        self._woken, self._wake = os.pipe()
        for descriptor in (self._woken, self._wake):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its number wakes the leader
        for number in _FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._forward)

    def wait(self, source: int | None, timeout_s: float | None) -> bytes | None:
        """What arrived from ``source``, empty where it is closed; None if the process ended, or for another reason."""
        self._reap()
        if self._status is not None:
            return None
        sources = [self._woken] if source is None else [self._woken, source]
        ready, _, _ = select.select(sources, [], [], timeout_s)
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
            self._reap()
        return os.read(source, 1 << 16) if source is not None and source in ready else None

    @property
    def code(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return None if self._status is None else os.waitstatus_to_exitcode(self._status)

    def _reap(self) -> None:
        """Take note of what ended: the member, and what became the leader's own."""
        for pid, status in ended():
            if pid == self.pid:
                self._status = status

    def _forward(self, number: int, _: FrameType | None) -> None:
        self.asked = number
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class _Interruption:
    """Ctrl-C arrives twice: from the terminal, and from the leader. One of the two interrupts."""

    _AGAIN_S = 1.0

    def __init__(self) -> None:
        self._last_s = -math.inf

    def __call__(self, number: int, _: FrameType | None) -> None:
        before_s, self._last_s = self._last_s, time.monotonic()
        if self._last_s - before_s > self._AGAIN_S:
            raise KeyboardInterrupt


def end_all() -> None:
    """Kill whatever runs below this process, until nothing does."""
    import psutil

    deadline_s = time.monotonic() + _STUBBORN_S
    while time.monotonic() < deadline_s:
        below = psutil.Process().children(recursive=True)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
        list(ended())
        if not below:
            return
        time.sleep(0.002)


def _leave_like(code: int) -> NoReturn:
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if code >= 0 else 128 - code)


def ended() -> Iterator[tuple[int, int]]:
    """The children that have ended, each with its status."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, status


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value)
