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
from pipeline.serving.limits import ServeLimits
from pipeline.serving.metrics import Metrics
from pipeline.serving.protocol import description
from pipeline.serving.protocol.refusal import Refusal
from pipeline.serving.protocol.requests import read_request, unpacked
from pipeline.serving.protocol.responses import TEXT, Response, as_json, inference_response
from pipeline.serving.repository import Repository, Served

Headers = Mapping[bytes, bytes]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_SLOW = "the body is too slow"
_CONTENT_TYPES = (b"application/json", b"application/octet-stream", b"")
_REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
_OPEN = ("/v2/health/live", "/v2/health/ready")
"""What a stranger may ask, such as an orchestrator's probe: it says yes or no."""
_UNLOGGED = ("answered", "overloaded", "deadline")
"""How requests end that are counted, and logged only if all are: a flood of them must not become one of lines."""
_log = logging.getLogger(__name__)


class _Gone(Exception):  # noqa: N818
    """The client has left before it had said all."""


class Application:
    """Routes, access and the protocol's errors; what is asked of a model goes through its batcher."""

    def __init__(
        self, repository: Repository, access: Access, limits: ServeLimits, metrics: Metrics, *, control: bool,
        log_all: bool,
    ) -> None:  # fmt: skip
        """``control`` allows clients to load and unload models; ``log_all`` logs answered requests too."""
        self._repository, self._access, self._limits, self._metrics = repository, access, limits, metrics
        self._control, self._log_all = control, log_all
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
        except _Gone:
            return
        except Exception:  # noqa: BLE001 - the last stop: the log has it, the client a word
            _log.exception("a request failed", extra={"request_id": request_id.decode()})
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
            _log.info("request", extra=fields)

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
        began_s = time.monotonic()
        served = self._served(place)
        model = served.model
        try:
            body = await self._body(headers, receive)
            asked = read_request(body, headers.get(b"inference-header-content-length"), model)
            outputs = await served.batcher.ask(asked.arrays, asked.rows, asked.timeout_s)
            response = inference_response(model.name, model.version, asked, model.signature.outputs, outputs)
        except Refusal as refusal:
            served.metrics.statuses[refusal.status] += 1
            raise
        served.metrics.answered(time.monotonic() - began_s)
        return response

    async def _repository_call(self, rest: list[str], headers: Headers, receive: Receive) -> Response:
        """The protocol's extension: what there is, and, where that is allowed, load and unload."""
        await self._body(headers, receive)  # it may say more, none of which has a meaning here
        if rest == ["index"]:
            return as_json(description.index(self._repository.entries))
        match rest:
            case ["models", name, "load" | "unload" as action]:
                if not self._control:
                    raise Refusal(403, "closed", "models are loaded and unloaded only where the server has --control")
                await (self._repository.load if action == "load" else self._repository.unload)(name)
                return as_json({})
        raise _unknown_place()

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body, unpacked. Of one that is too large as much again is read and dropped: a client that still
        sends would not hear why it is refused.

        Raises:
            Refusal: 413, 415, 408: too large, of another type, too slow.
            _Gone: the client left.
        """
        most_bytes = self._limits.body_bytes
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() not in _CONTENT_TYPES:
            raise Refusal(415, "invalid", "content-type must be application/json or application/octet-stream")
        parts: list[bytes] = []
        size, more = 0, True
        task = asyncio.current_task()
        assert task is not None
        timer = asyncio.get_running_loop().call_later(self._limits.body_s, task.cancel, _SLOW)
        try:
            while more and size <= 2 * most_bytes:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                if size <= most_bytes:
                    parts.append(part)
                else:
                    parts.clear()
        except asyncio.CancelledError as error:
            if error.args != (_SLOW,):
                raise
            raise Refusal(408, "slow", "the body did not arrive in time") from None
        finally:
            timer.cancel()
        if size > most_bytes:
            raise Refusal(413, "too_large", f"a body may have at most {most_bytes} bytes")
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return unpacked(body, headers.get(b"content-encoding", b"").lower(), most_bytes)


def _unknown_place() -> Refusal:
    return Refusal(404, "unknown", "there is nothing here: /openapi.json lists what there is")


def _allow(scope: Mapping[str, Any], method: str) -> None:
    if scope["method"] != method:
        raise Refusal(405, "method", f"only {method} is possible here", ((b"allow", method.encode()),))
