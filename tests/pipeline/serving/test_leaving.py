"""How a server leaves that has a model which does not answer: within one grace, or at once if asked again."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.pipeline.serving.doubling import Doubling
from tests.pipeline.serving.local import application_of, until
from tests.pipeline.serving.test_application import INFER, body

pytestmark = pytest.mark.extra


def seconds_to_leave(model: Doubling, grace_s: float, *, twice: bool = False) -> float:
    """From the first signal to the end, with a request under way; asked ``twice`` or once."""

    async def test() -> float:
        from pipeline.serving.server import Server, listen

        application, repository, _ = await application_of(model, grace_s=grace_s)
        listener = listen("127.0.0.1", 0)
        server = Server(application, repository, repository._limits, "ready")
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        request = body(1)
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(request)}\r\n\r\n"
        writer.write(head.encode() + request)
        await until(model.began.is_set)
        began_s = time.monotonic()
        server.leave()
        if twice:
            await asyncio.sleep(0.05)
            server.leave()
        await serving
        repository.abandon()
        writer.close()
        return time.monotonic() - began_s

    try:
        return asyncio.run(test())
    finally:
        model.gate.set()


def test_all_of_leaving_has_one_deadline() -> None:
    model = Doubling(is_open=False)
    assert seconds_to_leave(model, grace_s=0.5) < 1.2  # a second grace for the model would make it 1.5
    assert model.closed == ["1"]


def test_asked_again_it_leaves_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.serving.server._AGAIN_S", 0.0)
    model = Doubling(is_open=False)
    assert seconds_to_leave(model, grace_s=30, twice=True) < 2
    assert model.closed == ["1"]
