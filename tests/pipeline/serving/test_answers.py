"""What a server answers is what the artifact computes: the golden calls through every route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.verifier.artifacts import OnnxArtifact
from tests.oip.checks import CHECKS, good
from tests.oip.client import Client
from tests.oip.mutations import mutate
from tests.pipeline.serving.servers import Started

pytestmark = pytest.mark.extra
Call = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def golden(built: Path) -> list[Call]:
    """Inputs of the golden calls, and what the artifact answers in this process."""
    folder = built / "bundle"
    bundle = json.loads((folder / "bundle.json").read_bytes())
    artifact = OnnxArtifact(folder, bundle, bundle["shipped"][0])
    artifact.load()
    calls = []
    for call in bundle["golden"]:
        inputs = {name: np.load(folder / path) for name, path in call["inputs"].items()}
        calls.append((inputs, artifact.call(inputs)))
    assert len(calls) > 3
    return calls


@pytest.mark.parametrize("rule", CHECKS)
def test_the_protocol_holds(server: Started, rule: str) -> None:
    CHECKS[rule](server.client())


@pytest.mark.parametrize("as_binary", [True, False], ids=["binary", "json"])
def test_golden_calls_by_tritons_own_client_are_the_artifacts_bit_for_bit(
    server: Started, golden: list[Call], as_binary: bool
) -> None:
    tritonclient = pytest.importorskip("tritonclient.http")
    with tritonclient.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_model_ready("seed", "1")
        assert client.get_model_metadata("seed")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        for inputs, expected in _small(golden) if not as_binary else golden:
            tensor = tritonclient.InferInput("x", inputs["x"].shape, "FP32")
            tensor.set_data_from_numpy(inputs["x"], binary_data=as_binary)
            wanted = [tritonclient.InferRequestedOutput("probability", binary_data=as_binary)]
            compression = "gzip" if as_binary else "deflate"
            result = client.infer("seed", [tensor], outputs=wanted, request_compression_algorithm=compression)
            np.testing.assert_array_equal(result.as_numpy("probability"), expected["probability"], strict=True)


def test_golden_calls_as_plain_json_are_the_artifacts_bit_for_bit(server: Started, golden: list[Call]) -> None:
    client = server.client()
    for inputs, expected in _small(golden):
        tensor = {"name": "x", "datatype": "FP32", "shape": [*inputs["x"].shape], "data": inputs["x"].tolist()}
        (output,) = good(client.infer({"inputs": [tensor]}))["outputs"]
        assert output["data"] == expected["probability"].ravel().tolist()


def test_requests_that_are_joined_get_their_own_rows(server: Started, golden: list[Call]) -> None:
    """Many connections at once, each with a row of its own, until the metrics show that a call took several."""
    inputs, expected = max(_small(golden), key=lambda call: len(call[0]["x"]))
    clients = [server.client() for _ in range(32)]
    sent = [
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": inputs["x"][row].tolist()}]}
        for row in range(len(clients))
    ]
    for _ in range(20):
        before = _calls(clients[0])
        for client, request in zip(clients, sent, strict=True):
            client.begin(request)
        answers = [good(client.end())["outputs"][0]["data"][0] for client in clients]
        np.testing.assert_allclose(answers, expected["probability"][: len(clients), 0], rtol=1e-6)
        if _calls(clients[0]) - before < len(clients):
            return
    raise AssertionError("no call took several requests")


def _calls(client: Client) -> int:
    """Calls of the model so far."""
    lines = client.get("/metrics").body.decode().splitlines()
    return sum(int(float(line.split()[1])) for line in lines if line.startswith("torchstone_call_rows_count"))


def test_nan_goes_through_as_binary_data_and_json_says_how_to_ask(server: Started) -> None:
    client = server.client()
    request = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    nan = np.array([np.nan, 1], np.float32).tobytes()
    answer = client.infer({"inputs": [request]}, nan)
    assert answer.status == 422
    assert "binary" in answer.error
    binary = client.infer({"inputs": [request], "parameters": {"binary_data_output": True}}, nan)
    assert np.isnan(np.frombuffer(binary.body[-4:], np.float32)).all()


def test_sizes_that_were_not_tested_are_refused(server: Started, built: Path) -> None:
    client = server.client()
    most = json.loads((built / "bundle" / "bundle.json").read_bytes())["shipped"][0]["tested_sizes"]["batch"]["max"]
    for rows, status in ((most, 200), (most + 1, 400), (0, 400)):
        tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "parameters": {"binary_data_size": rows * 8}}
        request = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        head = json.dumps(request).encode()
        answer = client.infer(request, bytes(rows * 8), inference_header_content_length=str(len(head)))
        assert answer.status == status, (rows, answer.body[:200])


def test_a_body_above_the_limit_is_refused(server: Started) -> None:
    assert server.client().infer(b" " * (5 << 20)).status == 413
    assert server.client().infer(b" " * (3 << 20)).status == 400


def test_requests_that_are_almost_right_are_answered_or_refused(server: Started) -> None:
    """300 here; ``python -m tests.oip URL MODEL --mutations 100000`` sends more."""
    statuses = mutate(server.client(), 300)
    assert {200, 400} <= statuses.keys()


def _small(golden: list[Call]) -> Iterator[Call]:
    return (call for call in golden if len(call[0]["x"]) <= 256)
