"""The ASGI application: a request's way from its head to its answer."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

from pipeline.serving import page
from pipeline.serving.access import Access
from pipeline.serving.body import Gone, Headers, Receive, read_body
from pipeline.serving.calls import Arrays
from pipeline.serving.entry import Served
from pipeline.serving.limits import Budget, ServeLimits, Share
from pipeline.serving.log import REQUEST
from pipeline.serving.metrics import Metrics
from pipeline.serving.protocol import description
from pipeline.serving.protocol.refusal import Refusal
from pipeline.serving.protocol.requests import read_request
from pipeline.serving.protocol.responses import TEXT, Response, as_json, inference_response
from pipeline.serving.repository import Repository

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
_OPEN = ("/v2/health/live", "/v2/health/ready")
"""What a stranger may ask, such as an orchestrator's probe: it says yes or no."""
_UNLOGGED = ("answered", "overloaded", "deadline")
"""How requests end that are counted, and logged only if all are: a flood of them must not become one of lines."""
_log = logging.getLogger(__name__)


class Application:
    """Routes, access and the protocol's errors; what is asked of a model goes through its batcher."""

    def __init__(
        self, repository: Repository, access: Access, limits: ServeLimits, metrics: Metrics, *, control: bool,
        log_all: bool,
    ) -> None:  # fmt: skip
        """``control`` allows clients to load and unload models; ``log_all`` logs answered requests too."""
        self._repository, self._access, self._limits, self._metrics = repository, access, limits, metrics
        self._control, self._log_all = control, log_all
        self._budget = Budget(limits.held_bytes)
        self._numbers = itertools.count(1)
        self._began = f"{time.time_ns() // 1_000_000:x}"
        self._pages: Mapping[str, Callable[[], Response]] = {
            "/": lambda: page.page([*repository.served()]),
            "/page.css": partial(page.asset, "page.css"),
            "/page.js": partial(page.asset, "page.js"),
            "/v2": lambda: as_json(description.server()),
            "/v2/health/live": lambda: as_json({"live": True}),
            "/v2/health/ready": self._ready,
            "/metrics": lambda: Response(200, metrics.text(), TEXT),
            "/openapi.json": lambda: as_json(description.openapi([*repository.served()])),
        }
        self.is_draining = False
        """Whether the server is about to leave: it says that it is not ready."""
        self.is_closing = False
        """Whether every connection ends with its next answer."""

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        began_s = time.monotonic()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"{self._began}-{next(self._numbers):x}".encode()
        reason = "answered"
        try:
            response = await self._response(scope, headers, receive)
        except Refusal as refusal:
            reason = refusal.reason
            self._metrics.refused[reason] += 1
            response = as_json({"error": str(refusal)}, refusal.status)._replace(headers=refusal.headers)
        except Gone:
            self._metrics.refused["gone"] += 1
            return
        except Exception:  # noqa: BLE001 - the last stop: the log has it, the client a word
            _log.exception("a request failed", extra={"request_id": request_id.decode()})
            self._metrics.refused["defect"] += 1
            reason, response = "defect", as_json({"error": "the server failed on this request"}, 500)
        closes = ((b"connection", b"close"),) if self.is_closing or response.status in (408, 413) else ()
        await send({
            "type": "http.response.start",
            "status": response.status,
            "headers": [
                (b"content-type", response.content_type), (b"content-length", str(len(response.body)).encode()),
                (b"x-request-id", request_id), *_SAFE_HEADERS, *response.headers, *closes,
            ],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": response.body})
        if self._log_all or reason not in _UNLOGGED:
            took_ms = round((time.monotonic() - began_s) * 1e3, 3)
            fields = {"request_id": request_id.decode(), "status": response.status, "ms": took_ms, "reason": reason}
            _log.info(REQUEST, extra=fields)

    async def _response(self, scope: Mapping[str, Any], headers: Headers, receive: Receive) -> Response:
        path: str = scope["path"]
        if path not in _OPEN:
            self._access.check(headers)
        parts = path.split("/")[1:]
        match parts:
            case ["v2", "models", *place, "infer"]:
                _allow(scope, "POST")
                return await self._infer(place, headers, receive)
            case ["v2", "repository", *rest]:
                _allow(scope, "POST")
                return await self._repository_call(rest, headers, receive)
        _allow(scope, "GET")
        if path in self._pages:
            return self._pages[path]()
        match parts:
            case ["v2", "models", *place, ("ready" | "config") as what]:
                return self._model(place, what)
            case ["v2", "models", *place]:
                return self._model(place, "metadata")
        raise _unknown_place()

    def _ready(self) -> Response:
        is_ready = self._repository.is_ready and not self.is_draining
        return as_json({"ready": is_ready}, 200 if is_ready else 503)

    def _model(self, place: list[str], what: str) -> Response:
        """What there is to know of a model."""
        served = self._served(place)
        if what == "ready":
            is_ready = not served.batcher.is_stuck
            return as_json({"name": served.model.name, "ready": is_ready}, 200 if is_ready else 503)
        return as_json(description.config(served.model) if what == "config" else description.model(served.model))

    def _served(self, place: list[str]) -> Served:
        """The model at ``M`` or ``M/versions/V``."""
        match place:
            case [name]:
                return self._repository.get(name, None)
            case [name, "versions", version]:
                return self._repository.get(name, version)
        raise _unknown_place()

    async def _infer(self, place: list[str], headers: Headers, receive: Receive) -> Response:
        began_s, share = time.monotonic(), Share(self._budget)
        served: Served | None = None
        try:
            body = await read_body(headers, receive, self._limits, share)
            served = self._served(place)  # after the last wait before the queue: a version that has gone is not asked
            model = served.model
            json_length = headers.get(b"inference-header-content-length")
            asked = read_request(body, json_length, model)
            if json_length is None:  # otherwise most of them lie in the body
                share.take(sum([array.nbytes for array in asked.arrays]))
            answer = served.batcher.ask(asked.arrays, asked.rows, asked.timeout_s)
            is_quick = asked.rows <= model.quick_rows  # answered before a client can be seen to leave
            outputs = await (answer if is_quick else _unless_gone(answer, receive))
            response = inference_response(model.name, model.version, asked, model.signature.outputs, outputs)
        except Refusal as refusal:
            if served is not None:
                served.metrics.statuses[refusal.status] += 1
            raise
        finally:
            share.end()
        served.metrics.answered(time.monotonic() - began_s)
        return response

    async def _repository_call(self, rest: list[str], headers: Headers, receive: Receive) -> Response:
        """The protocol's extension: what there is, and, where that is allowed, load and unload."""
        share = Share(self._budget)
        try:
            await read_body(headers, receive, self._limits, share)  # it may say more, none of which has a meaning here
        finally:
            share.end()
        if rest == ["index"]:
            return as_json(description.index(self._repository.entries))
        match rest:
            case ["models", name, "load" | "unload" as action]:
                if not self._control:
                    raise Refusal(403, "closed", "models are loaded and unloaded only where the server has --control")
                await (self._repository.load if action == "load" else self._repository.unload)(name)
                return as_json({})
        raise _unknown_place()


async def _unless_gone(answer: asyncio.Future[Arrays], receive: Receive) -> Arrays:
    """The answer; once the client has left it is cancelled, so that it is not computed.

    Raises:
        Gone: the client left.
    """
    watching = asyncio.get_running_loop().create_task(_left(receive))
    watching.add_done_callback(lambda _: answer.cancel())
    try:
        return await answer
    except asyncio.CancelledError:
        if answer.cancelled() and watching.done() and not watching.cancelled():
            raise Gone from None
        raise
    finally:
        watching.cancel()


async def _left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _unknown_place() -> Refusal:
    return Refusal(404, "unknown", "there is nothing here: /openapi.json lists what there is")


def _allow(scope: Mapping[str, Any], method: str) -> None:
    if scope["method"] != method:
        raise Refusal(405, "method", f"only {method} is possible here", ((b"allow", method.encode()),))
