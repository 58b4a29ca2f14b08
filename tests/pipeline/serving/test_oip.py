"""The checks of tests/oip fail: each on a server that agrees to everything, or on one that refuses everything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from tests.oip.__main__ import main
from tests.oip.checks import CHECKS
from tests.oip.client import Client

TENSOR = {"datatype": "FP32", "shape": [-1, 2]}
METADATA = {
    "name": "bad", "versions": ["1"], "inputs": [TENSOR | {"name": "x"}],
    "outputs": [TENSOR | {"name": "y"}, TENSOR | {"name": "z"}],
}  # fmt: skip


class Refuses(BaseHTTPRequestHandler):
    """Says to everything but what the model is that it is not there."""

    protocol_version = "HTTP/1.1"
    status = 404
    fields: ClassVar[Any] = {"error": "no"}

    def answer(self) -> None:
        """Read all, answer."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        is_model = self.command == "GET" and self.path == "/v2/models/bad"
        body = json.dumps(METADATA if is_model else self.fields).encode()
        self.send_response(200 if is_model else self.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names of the standard library

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Agrees(Refuses):
    """Answers everything with one tensor of two zeros."""

    status = 200
    fields: ClassVar[Any] = {"model_name": "bad", "outputs": [TENSOR | {"name": "y", "shape": [1, 2], "data": [0, 0]}]}


@contextmanager
def served(handler: type[Refuses]) -> Iterator[str]:
    """The URL of such a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def bad() -> Iterator[list[str]]:
    with served(Refuses) as refuses, served(Agrees) as agrees:
        yield [refuses, agrees]


def fails(rule: str, url: str) -> bool:
    try:
        CHECKS[rule](Client(url, "bad"))
    except Exception:  # noqa: BLE001 - as the command has it: an answer that cannot be read fails the check too
        return True
    return False


WHAT_A_MODEL_IS = "a model tells its inputs and outputs"  # which both tell


@pytest.mark.parametrize("rule", [rule for rule in CHECKS if rule != WHAT_A_MODEL_IS])
def test_a_check_fails_on_a_bad_server(bad: list[str], rule: str) -> None:
    assert any(fails(rule, url) for url in bad)


def test_the_command_says_which_checks_fail_and_ends_with_1(
    bad: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["oip", bad[0], "bad"])
    assert main() == 1
    printed = capsys.readouterr().out
    assert "FAILS  the server says that it lives and is ready" in printed
    assert f"holds  {WHAT_A_MODEL_IS}" in printed
