"""A Python that has imported torch and forks children from then on: ``python -m export.forkserver DESCRIPTOR``.

It knows nothing of the user and computes nothing, so a child of its begins as a fresh Python does, only
seconds earlier. multiprocessing has such a server, too, but its children run the user's main module again, and
take modules from the current folder.

A request names a job file, and brings two descriptors: where the child prints, and where the server says the child's
process number and, later, how it ended. The server ends when its parent does, and what it forked ends with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from pathlib import Path

from export import child, leader
from export.forked import MOST_BYTES, NUMBER

_PRELOADED = ("torch", "torch._dynamo", "torch.export._trace", "torch.export.pt2_archive")
"""What nearly every child imports. None of it starts threads that compute, nor opens a GPU."""


class _Server:
    """The server's side: it forks, and says how what it forked has ended."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._sinks: dict[int, int] = {}
        """Where to say it, for every child that runs."""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its number wakes the server

    def serve(self) -> None:
        """Until the parent has ended."""
        while True:
            ready, _, _ = select.select([self._requests.fileno(), self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, MOST_BYTES)
                self._reap()
            if self._requests.fileno() in ready:
                job, descriptors, _, _ = socket.recv_fds(self._requests, MOST_BYTES, 2)
                if not job:
                    return
                self._fork(Path(job.decode()), *descriptors)

    def _fork(self, job: Path, log: int, sink: int) -> None:
        server_pid, pid = os.getpid(), os.fork()
        if not pid:
            child.leave(self._child(job, log, sink, server_pid))
        os.close(log)
        self._sinks[pid] = sink
        self._say(pid, pid)

    def _reap(self) -> None:
        for pid, status in leader.ended():
            self._say(pid, os.waitstatus_to_exitcode(status))
            os.close(self._sinks.pop(pid))

    def _say(self, pid: int, number: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody waits for this child any more
            os.write(self._sinks[pid], NUMBER.pack(number))

    def _child(self, job: Path, log: int, sink: int, server_pid: int) -> int:
        """What ``python -m export.child JOB PARENT_PID`` is; its exit code."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log, stream.fileno())
        self._requests.close()
        for descriptor in (log, sink, self._woken, self._wake, *self._sinks.values()):
            os.close(descriptor)
        os.chdir(job.parent)
        return child.main(job, server_pid)


def main(descriptor: int) -> None:
    """Import what the children need, then serve."""
    server = _Server(socket.socket(fileno=descriptor))
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):  # the child that needs it says so
            importlib.import_module(name)
    gc.freeze()  # else every child would look through all of torch whenever it collects garbage, and when it ends
    server.serve()
    leader.end_all()


if __name__ == "__main__":
    main(int(sys.argv[1]))
