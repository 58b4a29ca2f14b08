"""The process: uvicorn around the application, and how it leaves without losing a request.

On SIGTERM the server says that it is not ready, and goes on for ``drain_s``, until balancers have looked elsewhere.
Then it takes no new connection, and ends each with its next answer, which says so: a client never sends a request into
a connection that has just been closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import uvicorn

from export.errors import UserError
from pipeline.serving.access import Access
from pipeline.serving.application import Application
from pipeline.serving.entry import Source
from pipeline.serving.limits import ServeLimits
from pipeline.serving.metrics import Metrics
from pipeline.serving.model import open_model
from pipeline.serving.repository import Repository
from pipeline.verifier.verify import Request

_LAST_ANSWERS_S = 1.0
"""How long connections on which nothing comes stay open at the end: a request may be on its way."""
_AGAIN_S = 1.0
"""A signal that comes again within this time is the same one: a terminal sends it to a whole group of processes."""
_POLL_S = 0.02
_COLLECTIONS = (50_000, 20, 100)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server is run."""

    sources: Sequence[Source]
    request: Request
    access: Access
    limits: ServeLimits
    follow_s: float
    """How often serving folders are looked at."""
    control: bool
    """Whether clients may load and unload models."""
    log_all: bool
    """Whether answered requests are logged too."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, and on which nobody is answered yet.

    Raises:
        UserError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
    return listener


def run(settings: Settings, listener: socket.socket) -> None:
    """Verify, load, serve, until a signal ends it.

    Raises:
        Refused, Unable: a bundle is not good.
        UserError: no bundle there.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, listener))


class Server(uvicorn.Server):
    """uvicorn's, which leaves in another order."""

    def __init__(self, application: Application, repository: Repository, limits: ServeLimits, ready: str) -> None:
        """``ready`` is printed once connections are taken."""
        super().__init__(
            uvicorn.Config(
                application, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
                server_header=False, proxy_headers=False,
            )
        )  # fmt: skip
        self._application, self._repository, self._limits, self._ready = application, repository, limits, ready
        self._leaving: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._asked_s = 0.0
        self._end_s: float | None = None
        """When the grace is over: what has not been answered by then is not."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server, in order; the second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.leave)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        print(self._ready, flush=True)

    def leave(self) -> None:
        """Begin to leave; asked again, leave now."""
        if self._leaving is None:
            self._asked_s = time.monotonic()
            self._leaving = asyncio.get_running_loop().create_task(self._leave())
        elif time.monotonic() - self._asked_s > _AGAIN_S:
            self._leaving.cancel()
            self._end_s = time.monotonic()
            self.should_exit = self.force_exit = True
            if self._ending is not None:
                self._ending.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted and free all models: both within what is left of the grace, or until asked again."""
        if self._end_s is None:
            self._end_s = time.monotonic() + self._limits.grace_s
        self._ending = asyncio.get_running_loop().create_task(self._end(sockets))
        _, late = await asyncio.wait([self._ending], timeout=max(0.0, self._end_s - time.monotonic()))
        if late or self._ending.cancelled():
            _log.error("left before all was answered")
            self._ending.cancel()
        else:
            self._ending.result()

    async def _end(self, sockets: list[socket.socket] | None) -> None:
        await super().shutdown(sockets)
        await self._repository.close()

    async def _leave(self) -> None:
        _log.info("asked to leave")
        self._application.is_draining = True
        await asyncio.sleep(self._limits.drain_s)
        self._end_s = time.monotonic() + self._limits.grace_s
        self._application.is_closing = True
        for server in self.servers:
            server.close()
        last_s = time.monotonic() + min(_LAST_ANSWERS_S, self._limits.grace_s)
        while self.server_state.connections and time.monotonic() < last_s:
            await asyncio.sleep(_POLL_S)
        self.should_exit = True


async def _serve(settings: Settings, listener: socket.socket) -> None:
    metrics = Metrics()
    repository = Repository(partial(open_model, request=settings.request), settings.limits, metrics)
    application = Application(
        repository, settings.access, settings.limits, metrics, control=settings.control, log_all=settings.log_all
    )
    thresholds = gc.get_threshold()
    try:
        await repository.open(settings.sources)
        gc.collect()
        gc.freeze()  # what lives as long as the server is not looked through again, and a request leaves no circles:
        gc.set_threshold(*_COLLECTIONS)  # to look for them every few requests costs throughput, and slows the slowest
        repository.start_following(settings.follow_s)
        await Server(application, repository, settings.limits, _ready(repository, listener)).serve(sockets=[listener])
    finally:
        repository.abandon()
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def _ready(repository: Repository, listener: socket.socket) -> str:
    """What is said once connections are taken: a line a model."""
    host, port = listener.getsockname()[:2]
    place = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return "\n".join(f"serving {served.model.name} {served.model.version} on {place}" for served in repository.served())


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.Loop
