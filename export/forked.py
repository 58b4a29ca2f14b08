"""Children that need not import torch again: the parent's side of export/forkserver.py."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import psutil

NUMBER = struct.Struct("i")
"""A process number, an exit code."""
MOST_BYTES = 1 << 16
_SHARED = {"OMP_WAIT_POLICY": "passive"}
"""Children run side by side, each with all threads: one that waits must not keep a processor busy, as it does at first
by default. Where the user has set it, that holds."""
_STOPPED = -signal.SIGKILL
"""How a child ended whose server was killed: it was killed, too."""


class Forked(psutil.Process):  # type: ignore[misc]  # psutil has no types
    """A child that a server forked; it is waited for through the server, whose child it is."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.returncode: int | None = None
        if (pid := self._read()) is None:
            self._end(_STOPPED)
            return
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended already
            super().__init__(pid)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or minus the signal that ended it.

        Raises:
            psutil.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise psutil.TimeoutExpired(timeout, pid=self.pid)
            code = self._read()
            return self._end(_STOPPED if code is None else code)
        return self.returncode

    def _read(self) -> int | None:
        data = os.read(self._status, NUMBER.size)
        return NUMBER.unpack(data)[0] if data else None

    def _end(self, code: int) -> int:
        os.close(self._status)
        self.returncode = code
        return code


class ForkServer:
    """A server, and the socket by which it is asked."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with requests:
            self._process = psutil.Popen(
                [sys.executable, "-P", "-m", "export.forkserver", str(requests.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=_SHARED | dict(environment), pass_fds=[requests.fileno()], start_new_session=True,
            )  # fmt: skip

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def idle(self) -> bool:
        """Whether no child of it runs."""
        return not self._process.children()

    def start(self, job: Path, log: BinaryIO) -> Forked:
        """Fork a child that does this job, in the job's folder, and prints to ``log``."""
        status, sink = os.pipe()
        with contextlib.suppress(OSError):  # it has ended, which the child then finds
            socket.send_fds(self._socket, [str(job).encode()], [log.fileno(), sink])
        os.close(sink)
        return Forked(status)

    def close(self) -> None:
        """End it and what it forked."""
        self._socket.close()
        self._process.wait()


_lock = threading.Lock()
_servers: dict[frozenset[tuple[str, str]], ForkServer] = {}


def fork_server(environment: Mapping[str, str]) -> ForkServer:
    """The server whose children have this environment, started when it is first asked for; another, idle one ends."""
    asked = frozenset(environment.items())
    with _lock:
        for key, server in [*_servers.items()]:
            if not server.runs or (key != asked and server.idle):
                _servers.pop(key).close()
        if asked not in _servers:
            _servers[asked] = ForkServer(environment)
        return _servers[asked]


@atexit.register
def close_servers() -> None:
    """End those that run."""
    while _servers:
        _servers.popitem()[1].close()
