"""The process: how it leaves, who may ask, what it refuses to serve, what it says of itself."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from export.errors import UserError
from pipeline.serving.access import Access
from pipeline.serving.protocol.refusal import Refusal
from tests.conftest import ROOT, environ
from tests.oip.client import Answer, Client
from tests.pipeline.bundles import alter_weight
from tests.pipeline.serving.servers import KEY, Started, serving
from torchstone.commands.serve import main

pytestmark = pytest.mark.extra


class Asking(threading.Thread):
    """A client that asks again and again until it cannot connect; whatever it sent must be answered."""

    def __init__(self, server: Started) -> None:
        super().__init__()
        self._client = server.client()
        self.answers: list[Answer] = []
        self.lost: list[Exception] = []

    def run(self) -> None:
        request = self._client.example()
        while True:
            try:
                self.answers.append(self._client.infer(request))
            except ConnectionRefusedError:
                return
            except (http.client.HTTPException, OSError) as error:
                self.lost.append(error)
                return


def under_load(server: Started) -> list[Asking]:
    """Clients of which each has had many answers."""
    clients = [Asking(server) for _ in range(8)]
    for client in clients:
        client.start()
    deadline_s = time.monotonic() + 30
    while min(len(client.answers) for client in clients) < 20:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return clients


def test_sigterm_under_load_loses_no_request(built: Path) -> None:
    """It says that it is not ready while it still answers, then ends each connection with an answer that says so."""
    with serving(built / "bundle", "--limits.drain-s", "0.3") as server:
        clients = under_load(server)
        probe = server.client()
        assert probe.get("/v2/health/ready").status == 200
        began_s = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        while probe.get("/v2/health/ready").status == 200:
            assert time.monotonic() - began_s < 10
        assert server.client().infer(probe.example()).status == 200  # a new connection is still taken
        assert server.process.wait(30) == 0
        assert time.monotonic() - began_s < 10
        for client in clients:
            client.join(30)
        assert [client.lost for client in clients] == [[]] * 8
        assert {answer.status for client in clients for answer in client.answers} == {200}
        assert {client.answers[-1].headers.get("connection") for client in clients} == {"close"}


@pytest.mark.slow
def test_sigkill_under_load_is_seen_to_lose_requests(built: Path) -> None:
    """What the test above looks for can be seen."""
    with serving(built / "bundle") as server:
        clients = under_load(server)
        os.kill(server.process.pid, signal.SIGKILL)
        for client in clients:
            client.join(30)
        assert any(client.lost for client in clients)


def test_a_bundle_of_which_a_file_was_changed_is_not_served(bundle: Path) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    done = serve(bundle)
    assert done.returncode == 1
    assert done.stderr.startswith("refused: model.onnx is not the file that was shipped")


@pytest.mark.slow
def test_a_bundle_whose_answers_are_wrong_is_not_served(bundle: Path) -> None:
    alter_weight(bundle, 1.5)  # with every digest made to fit
    done = serve(bundle)
    assert done.returncode == 1
    assert done.stderr.startswith("refused: onnx: probability[")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--host", "0.0.0.0"), "0.0.0.0 can be reached from other machines: give clients a key"),
        (("--api-key-file", "no/such/file"), "the key file no/such/file cannot be read"),
        (("--limits.call-s", "0"), "limits.call_s must be above 0, got 0"),
        (("--limits.body-s", "nan"), "limits.body_s must be above 0, got nan"),
    ],
)
def test_what_is_not_safe_or_not_possible_is_said(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        main(["no/bundle", *flags])


@pytest.mark.slow
def test_a_client_that_is_too_slow_is_cut_off_and_others_are_not(built: Path) -> None:
    with serving(built / "bundle", "--limits.body-s", "0.3") as server:
        client = server.client()
        with socket.create_connection((client.host, client.port), timeout=10) as slow:
            head = "POST /v2/models/seed/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
            slow.sendall(head.encode() + b'{"inputs"')
            assert client.infer(client.example()).status == 200
            answer = b"".join(iter(lambda: slow.recv(4096), b""))  # until the server closes
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive in time" in answer


def test_a_port_that_is_taken_is_said(server: Started, bundle: Path) -> None:
    done = serve(bundle, "--port", server.url.rpartition(":")[2])
    assert done.returncode == 2
    assert "cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_with_a_key_only_its_holders_are_answered(built: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"another-key-of-that-length\n{KEY}\n")
    with serving(built / "bundle", "--api-key-file", tmp_path / "keys", "--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        holder = Client(url, server.model, {"authorization": f"Bearer {KEY}"})
        assert holder.infer(holder.example()).status == 200
        for given in ("", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY):
            holder.headers["authorization"] = given
            for path in ("/", "/v2", "/v2/models/seed", "/metrics", "/openapi.json", "/no/such/place"):
                answer = holder.get(path)
                assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert holder.infer(holder.example() if given else b"{").status == 401
        assert holder.get("/v2/health/ready").status == 200
        server.leave()
        assert KEY not in "".join(server.log)


def test_without_a_key_neither_foreign_names_nor_foreign_pages_are_answered(server: Started) -> None:
    own = server.url.removeprefix("http://")
    client = server.client()
    for headers, status in (
        ({"host": own}, 200), ({"host": "localhost:8000"}, 200), ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example"}, 403), ({"host": "127.0.0.1.evil.example"}, 403), ({"host": "10.0.0.1"}, 403),
        ({"host": own, "origin": f"http://{own}"}, 200), ({"host": own, "origin": "http://evil.example"}, 403),
        ({"host": own, "origin": "null"}, 403),
    ):  # fmt: skip
        assert client.send("GET", "/v2", b"", **headers).status == status, headers


def test_a_key_is_compared_whole() -> None:
    access = Access((KEY.encode(),))
    access.check({b"authorization": f"bearer {KEY}".encode()})
    for given in (b"", b"bearer", b"bearer ", f"bearer {KEY} ".encode(), b"bearer \xff"):
        with pytest.raises(Refusal):
            access.check({b"authorization": given})


@pytest.mark.slow
def test_the_log_says_how_requests_ended_and_not_what_was_in_them(built: Path) -> None:
    with serving(built / "bundle", "--log-requests") as server:
        client = server.client()
        client.infer(client.example(data=[0.123456, 0.5]), x_request_id="mine-7")
        client.infer(client.example(name="s3cret-name"), x_request_id="bad id\t{}")
        server.leave()
        requests = [event for event in server.events() if event["event"] == "request"]
        assert [(event["status"], event["reason"]) for event in requests[-2:]] == [(200, "answered"), (400, "invalid")]
        assert requests[-2]["request_id"] == "mine-7"
        assert requests[-2]["ms"] > 0
        assert not re.search("0.123456|s3cret|bad id", "".join(server.log))


def test_errors_and_headers_tell_nothing_of_the_machine(server: Started) -> None:
    client = server.client()
    for answer in (client.get("/no"), client.infer(b"{"), client.infer(client.example())):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert answer.headers["x-request-id"]
        assert str(ROOT).encode() not in answer.body
    assert client.infer(client.example(), x_request_id="abc").headers["x-request-id"] == "abc"


def test_the_page_shows_what_is_served_and_asks_nobody_else(server: Started) -> None:
    client = server.client()
    page = client.get("/")
    text = page.body.decode()
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    # Nothing that the policy would not run, and nothing from elsewhere.
    assert not re.search(r"<script>|<style>|style=|\son\w+=|https?://", text)
    for place in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert client.get(place).status == 200
    request = re.search(r"<textarea[^>]*>(.*?)</textarea>", text, re.DOTALL)
    assert request is not None
    body = request[1].replace("&#34;", '"').encode()
    assert client.infer(body).status == 200
    assert "seed" in text
    assert "pass" in text


def test_openapi_lists_every_route_and_the_form_of_a_request(server: Started) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    client = server.client()
    fields = client.get("/openapi.json").fields
    schema = fields["paths"]["/v2/models/seed/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(client.example(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(client.example(datatype="INT8"), schema)
    for path, methods in fields["paths"].items():
        for method in methods:
            assert client.send(method.upper(), path).status in (200, 400)


def test_metrics_count_requests_refusals_and_calls(server: Started) -> None:
    client = server.client()

    def value(name: str) -> float:
        lines = client.get("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    names = (
        'torchstone_requests_total{model="seed",status="200"',
        "torchstone_call_rows_count",
        'torchstone_requests_total{model="seed",status="400"',
        'torchstone_refused_total{reason="invalid"}',
    )
    before = [value(name) for name in names]
    client.infer(client.example())
    client.infer(client.example(shape=[0]))
    assert [value(name) - number for name, number in zip(names, before, strict=True)] == [1, 1, 1, 1]


def serve(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command, which is to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "torchstone", "serve", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environ(), timeout=60,
    )  # fmt: skip


def test_the_configuration_is_what_tritons_tools_read(server: Started) -> None:
    fields = server.client().get("/v2/models/seed/config").fields
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    json_format = pytest.importorskip("google.protobuf.json_format")
    parsed = json_format.Parse(json.dumps(fields), model_config.ModelConfig())
    assert [(*tensor.dims,) for tensor in parsed.input] == [(-1, 2)]
