"""The body of a request: read within limits of time and memory, and unpacked."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from pipeline.serving.limits import ServeLimits, Share
from pipeline.serving.protocol.refusal import Refusal, invalid

Headers = Mapping[bytes, bytes]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_SLOW = "the body is too slow"
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_CONTENT_TYPES = (b"application/json", b"application/octet-stream", b"")


class Gone(Exception):  # noqa: N818
    """The client has left before it was answered."""


async def read_body(headers: Headers, receive: Receive, limits: ServeLimits, share: Share) -> bytes:
    """The whole body, unpacked; what it holds is taken from ``share``.

    Raises:
        Refusal: 413, 415, 408: too large, of another type, too slow; 503, too much memory is held already.
        Gone: the client left.
    """
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() not in _CONTENT_TYPES:
        types = "application/json or application/octet-stream (curl -H 'content-type: application/json')"
        raise Refusal(415, "invalid", f"content-type must be {types}")
    task = asyncio.current_task()
    assert task is not None
    timer = asyncio.get_running_loop().call_later(limits.body_s, task.cancel, _SLOW)
    try:
        body = await _whole(receive, limits.body_bytes, share)
    except asyncio.CancelledError as error:
        if error.args != (_SLOW,):
            raise
        raise Refusal(408, "slow", "the body did not arrive in time") from None
    finally:
        timer.cancel()
    encoding = headers.get(b"content-encoding", b"").lower()
    data = _unpacked(body, encoding, limits.body_bytes)
    if data is not body:
        share.take(len(data))
    return data


async def _whole(receive: Receive, most_bytes: int, share: Share) -> bytes:
    """All parts in one. Of a body that is refused the rest is read and dropped, up to twice what one may have: a client
    that still sends would not hear why.
    """
    parts: list[bytes] = []
    refusal: Refusal | None = None
    size, more = 0, True
    while more and size <= 2 * most_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        try:
            if size > most_bytes:
                raise Refusal(413, "too_large", f"a body may have at most {most_bytes} bytes")
            if refusal is None:
                share.take(len(part))
                parts.append(part)
        except Refusal as error:
            refusal = error
            parts.clear()
            share.end()
    if refusal is not None:
        raise refusal
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _unpacked(body: bytes, encoding: bytes, most_bytes: int) -> bytes:
    """The body as it was before it was compressed.

    Raises:
        Refusal: 415, another encoding; 413, more than ``most_bytes``; 400, damaged.
    """
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"deflate"):
        raise Refusal(415, "invalid", "content-encoding must be gzip or deflate")
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        data = unpacker.decompress(body, most_bytes + 1)
    except zlib.error:
        raise invalid("the body is not what content-encoding says") from None
    if len(data) > most_bytes:
        raise Refusal(413, "too_large", f"the body unpacks to more than {most_bytes} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise invalid("the compressed body is cut short, or something follows it")
    return data
