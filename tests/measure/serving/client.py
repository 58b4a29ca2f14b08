"""A client in a process of its own: so many connections, each of which asks as soon as it is answered."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

from tests.conftest import ROOT, environ

_WARM_S = 0.3


@dataclass(frozen=True)
class Window:
    """What a client saw in one window."""

    per_s: float
    p50_us: float
    p99_us: float


class _Connection(asyncio.Protocol):
    """Asks, reads the whole answer, asks again."""

    def __init__(self, request: bytes, begin_s: float, end_s: float, taken_s: list[float]) -> None:
        self._request, self._begin_s, self._end_s, self._taken_s = request, begin_s, end_s, taken_s
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop has a class of its own
        self._ask()

    def _ask(self) -> None:
        self._asked_s = time.monotonic()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head_length = self._read.find(b"\r\n\r\n") + 4
        if head_length < 4:
            return
        begin = self._read.find(b"content-length: ") + 16
        if len(self._read) < head_length + int(self._read[begin : self._read.find(b"\r", begin)]):
            return
        assert self._read.startswith(b"HTTP/1.1 200"), self._read
        self._read = b""
        now_s = time.monotonic()
        if self._begin_s < now_s < self._end_s:
            self._taken_s.append(now_s - self._asked_s)
        if now_s < self._end_s:
            self._ask()
        else:
            self._transport.close()


def ask(port: int, connections_count: int, window_s: float, request: bytes) -> Window:
    """One window, from this process."""
    import uvloop

    taken_s: list[float] = []

    async def clients() -> None:
        begin_s = time.monotonic() + _WARM_S
        for _ in range(connections_count):
            await asyncio.get_running_loop().create_connection(
                lambda: _Connection(request, begin_s, begin_s + window_s, taken_s), "127.0.0.1", port
            )
        await asyncio.sleep(_WARM_S + window_s + 0.2)

    uvloop.run(clients())
    ordered = sorted(taken_s)
    p50_s, p99_s = ordered[len(ordered) // 2], ordered[int(0.99 * len(ordered))]
    return Window(len(ordered) / window_s, p50_s * 1e6, p99_s * 1e6)


def window(port: int, connections_count: int, window_s: float, request: bytes) -> Window:
    """The same in a process of its own, as clients are."""
    arguments = map(str, (port, connections_count, window_s))
    command = [sys.executable, "-m", "tests.measure.serving.client", *arguments]
    done = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True, cwd=ROOT, env=environ())
    return Window(**json.loads(done.stdout))


if __name__ == "__main__":
    port, count, seconds = sys.argv[1:]
    print(json.dumps(asdict(ask(int(port), int(count), float(seconds), sys.stdin.buffer.read()))))
