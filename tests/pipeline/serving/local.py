"""The application in this process, asked without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pipeline.serving.access import Access
from pipeline.serving.limits import ServeLimits
from tests.oip.client import Answer, Client
from tests.pipeline.serving.doubling import Doubling

if TYPE_CHECKING:
    from pipeline.serving.application import Application
    from pipeline.serving.metrics import Metrics
    from pipeline.serving.repository import Opens, Repository


class Local(Client):
    """A client of an application, whose loop stands still between requests."""

    def __init__(self, application: Application, runner: asyncio.Runner, model: str, headers: dict[str, str]) -> None:
        self.application, self.runner = application, runner
        super().__init__("http://localhost", model, headers)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """A request whose body comes in one part."""
        spelled = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.runner.run(ask(self.application, path, [body], method=method, headers=spelled))


async def ask(
    application: Application, path: str, parts: Sequence[bytes], *, method: str = "POST",
    headers: Mapping[str, str] | None = None, between: Callable[[], Any] = lambda: None,
) -> Answer:  # fmt: skip
    """A request whose body comes in ``parts``; what ``between`` returns is awaited before each but the first. A last
    part that is empty never comes.
    """
    left = list(parts)

    async def receive() -> MutableMapping[str, Any]:
        is_later = len(left) < len(parts)
        if not left or (is_later and not left[0]):
            await asyncio.Event().wait()
        if is_later and (pending := between()) is not None:
            await pending
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    await application({"method": method, "path": unquote(path), "headers": raw}, receive, send)
    start, body = sent
    answered = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], answered, body["body"])


async def repository_of(opens: Opens, place: Path, **limits: Any) -> tuple[Repository, Metrics]:
    """A repository of one model, which ``opens`` opens."""
    from pipeline.serving.entry import Source
    from pipeline.serving.metrics import Metrics
    from pipeline.serving.repository import Repository

    metrics = Metrics()
    repository = Repository(opens, ServeLimits(**limits), metrics)
    await repository.open([Source(place)])
    return repository, metrics


async def application_of(
    model: Doubling, *, access: Access | None = None, control: bool = False, **limits: Any
) -> tuple[Application, Repository, Metrics]:
    """An application that serves ``model``."""
    from pipeline.serving.application import Application

    repository, metrics = await repository_of(lambda *_: model, Path(), **limits)
    access = access or Access()
    application = Application(repository, access, ServeLimits(**limits), metrics, control=control, log_all=False)
    return application, repository, metrics


@contextlib.contextmanager
def local(model: Doubling, headers: dict[str, str] | None = None, **settings: Any) -> Iterator[Local]:
    """A client of an application that serves ``model``."""
    with asyncio.Runner() as runner:
        application, repository, _ = runner.run(application_of(model, **settings))
        yield Local(application, runner, model.name, headers or {})
        model.gate.set()
        runner.run(repository.close())


async def until(condition: Callable[[], object]) -> None:
    """Wait for what is to come true."""
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)
