"""Requests that are almost right: bytes changed, parts cut or doubled, headers wrong; no answer may be a 5xx."""

from __future__ import annotations

import json
import random

from tests.oip.client import Client

_PIECES = (
    b"null", b"-1", b"1e400", b"1e-400", b"NaN", b"[]", b"{}", b'""', b"true", b"0.5", b"9223372036854775808",
    b"\\ud800", b"\x00", b"\xff", b"[[", b"]]", b'{"', b",", b":", b"BF16", b"BYTES", b'"shape"', b'"data"',
    b'"parameters"',
)  # fmt: skip
_HEADERS = {
    "inference_header_content_length": ("0", "1", "-1", "abc", "99999999", "18446744073709551616", ""),
    "content_encoding": ("gzip", "deflate", "br", "identity"),
    "content_type": (
        "application/json",
        "application/octet-stream",
        "text/plain",
        "",
        "application/json; charset=utf-8",
    ),
}


def mutate(client: Client, count: int, seed: int = 0) -> dict[int, int]:
    """How often which status came of so many requests.

    Raises:
        AssertionError: a 5xx, with the request; the server no longer answers a right one.
    """
    chance = random.Random(seed)
    statuses: dict[int, int] = {}
    for _ in range(count):
        request, binary = client.binary_example() if chance.random() < 0.5 else (client.example(), b"")
        body = bytearray(json.dumps(request).encode())
        headers = {"inference_header_content_length": str(len(body))} if binary else {}
        body += binary
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            _change(body, chance)
        for name, values in _HEADERS.items():
            if chance.random() < 0.1:
                headers[name] = chance.choice(values)
        answer = client.infer(bytes(body), b"", **headers)
        assert answer.status < 500, (answer.status, bytes(body), headers)
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
    assert client.infer(client.example()).status == 200
    return statuses


def _change(body: bytearray, chance: random.Random) -> None:
    """One change, in place."""
    begin = chance.randrange(len(body) + 1)
    end = min(len(body), begin + chance.choice((1, 1, 2, 5, 20)))
    match chance.randrange(5):
        case 0:
            del body[begin:end]
        case 1:
            body[begin:begin] = body[begin:end]
        case 2:
            body[begin:end] = chance.choice(_PIECES)
        case 3:
            body[begin:begin] = chance.choice(_PIECES)
        case _:
            body[begin:end] = chance.randbytes(end - begin)
