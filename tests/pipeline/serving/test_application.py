"""A request's way through the application, in this process: what it may hold, who may ask, what is written of it."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from typing import Any

import numpy as np
import pytest

from export.tensor import TensorSpec
from pipeline.serving.access import Access
from pipeline.serving.model import Model
from pipeline.serving.protocol.refusal import Refusal
from tests.oip.checks import CHECKS
from tests.oip.client import Client
from tests.oip.mutations import mutate
from tests.pipeline.serving.doubling import QUICK, Doubling
from tests.pipeline.serving.local import application_of, ask, local, until
from tests.pipeline.serving.servers import KEY

pytestmark = pytest.mark.extra
INFER = "/v2/models/doubling/infer"
DEEP = TensorSpec("x", "float32", ("batch", "height", "width"))


def body(*values: float) -> bytes:
    """A request of rows of two equal values."""
    data = [value for value in values for _ in range(2)]
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(values), 2], "data": data}]}).encode()


@pytest.mark.parametrize("rule", CHECKS)
def test_the_protocol_holds_of_a_model_of_three_dimensions(rule: str) -> None:
    with local(Doubling(spec=DEEP), body_mb=4) as client:
        CHECKS[rule](client)


def test_requests_that_are_almost_right_are_answered_or_refused_in_three_dimensions_too() -> None:
    with local(Doubling(spec=DEEP, quick_rows=QUICK)) as client:
        assert {200, 400} <= mutate(client, 1000).keys()


@pytest.mark.parametrize("shape", [[0, 1 << 47, 1 << 47], [1 << 47] * 3, [1, 1, 1 << 62], [1, 1, 1 << 70], [1, -1, -1]])
def test_sizes_that_no_array_can_have_are_refused(shape: list[int]) -> None:
    with local(Doubling(spec=DEEP)) as client:
        answer = client.infer(client.example(shape=shape, data=[]))
        assert answer.status == 400
        assert "input x" in answer.error


def many(text: str, count: int = 500_000) -> str:
    return "[" + ",".join([text] * count) + "]"


@pytest.mark.parametrize(
    "tensor",
    [
        {"data": many("0")}, {"data": many("[]")}, {"data": many("[[[]]]")}, {"data": "[" + many("0") + "]"},
        {"data": "[" + many("{}") + "]"}, {"shape": many("0")}, {"parameters": '{"a":' + many("[]") + "}"},
    ],
)  # fmt: skip
def test_json_that_holds_more_than_its_shape_says_is_refused_before_objects_are_made_of_it(
    tensor: dict[str, str],
) -> None:
    fields = {"name": '"x"', "datatype": '"FP32"', "shape": "[1, 2]", "data": "[0, 0]"} | tensor
    text = ", ".join(f'"{name}": {value}' for name, value in fields.items())
    request = f'{{"inputs": [{{{text}}}]}}'.encode()
    with local(Doubling()) as client:
        client.infer(client.example())
        tracemalloc.start()
        try:
            answer = client.infer(request)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.status == 400
    assert peak_bytes < 4 * len(request)  # its objects would be 16 and more times as large as their text


def test_the_marks_of_the_largest_call_are_enough_for_it_and_all_that_may_stand_beside() -> None:
    with local(Doubling(spec=DEEP)) as client:
        data = np.ones((8, 8, 8)).tolist()
        request = client.example(shape=[8, 8, 8], data=data, parameters={"note": "a, b [c]"})
        assert client.infer(request).status == 200


def test_what_all_requests_hold_together_is_bounded() -> None:
    model = Doubling(is_open=False)
    large = body(1) + b" " * 300_000

    async def test() -> None:
        application, _, metrics = await application_of(model, held_mb=0.7)
        pending = [asyncio.create_task(ask(application, INFER, [large])) for _ in range(2)]
        await until(model.began.is_set)
        await asyncio.sleep(0)
        refused = await ask(application, INFER, [large[:150_000], large[150_000:]])
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert metrics.refused["overloaded"] == 1
        model.gate.set()
        assert [answer.status for answer in await asyncio.gather(*pending)] == [200, 200]
        assert (await ask(application, INFER, [large])).status == 200  # what was held has been given back

    asyncio.run(test())


def test_a_body_that_is_too_slow_is_refused() -> None:
    async def test() -> None:
        application, *_ = await application_of(Doubling(), body_s=0.05)
        answer = await ask(application, INFER, [b'{"inputs"', b""])
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert "did not arrive in time" in answer.error

    asyncio.run(test())


def test_a_request_whose_body_arrives_across_a_change_of_versions_is_answered_by_the_new_one() -> None:
    first, second = Doubling(), Doubling(version="2")

    async def test() -> None:
        application, repository, _ = await application_of(first)
        versions = iter([second])
        repository._opens = lambda *_: next(versions)

        async def change() -> None:
            await repository.load("doubling")
            await until(lambda: first.closed)

        request = body(1)
        answer = await ask(application, INFER, [request[:10], request[10:]], between=change)
        assert (answer.status, answer.fields["model_version"]) == (200, "2")
        assert (first.rows, second.rows) == ([], [1])

    asyncio.run(test())


def test_of_what_a_client_that_has_left_had_asked_nothing_is_computed() -> None:
    from pipeline.serving.server import Server, listen

    model = Doubling(is_open=False)

    async def test() -> None:
        application, repository, metrics = await application_of(model)
        listener = listen("127.0.0.1", 0)
        server = Server(application, repository, repository._limits, "ready")
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)

        async def sent(request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*listener_address)
            head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(request)}\r\n\r\n"
            writer.write(head.encode() + request)
            return reader, writer

        listener_address = listener.getsockname()[:2]
        stays, one = await sent(body(1))
        await until(model.began.is_set)
        _, leaves = await sent(body(1, 2))
        batcher = repository.get("doubling", None).batcher
        await until(lambda: batcher.waiting_count == 1)
        leaves.close()
        await until(lambda: metrics.refused["gone"] == 1)
        model.gate.set()
        assert (await stays.readline()).startswith(b"HTTP/1.1 200 ")
        _, other = await sent(body(1, 2, 3))
        await until(lambda: len(model.rows) == 2)
        for writer in (one, other):
            writer.close()
        server.leave()
        await serving

    asyncio.run(test())
    assert model.rows == [1, 3]


def test_with_a_key_only_its_holders_are_answered() -> None:
    key = {"authorization": f"Bearer {KEY}"}
    with local(Doubling(), key, access=Access((b"another-key-of-that-length", KEY.encode()))) as holder:
        assert holder.infer(holder.example()).status == 200
        for given in ("", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY):
            holder.headers["authorization"] = given
            for path in ("/", "/v2", "/v2/models/doubling", "/metrics", "/openapi.json", "/no/such/place"):
                answer = holder.get(path)
                assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert holder.infer(holder.example() if given else b"{").status == 401
        assert holder.get("/v2/health/ready").status == 200


def test_models_are_loaded_and_unloaded_where_that_is_allowed() -> None:
    with local(Doubling()) as client:
        assert client.send("POST", "/v2/repository/models/doubling/unload").status == 403
    with local(Doubling(), control=True) as client:
        assert client.send("POST", "/v2/repository/models/no_such_model/load").status == 404
        assert client.send("POST", "/v2/repository/models/doubling/unload", b"{}").status == 200
        assert client.infer({"inputs": []}).status == 503
        assert client.get("/v2/health/ready").status == 503
        assert client.send("POST", "/v2/repository/index").fields[0]["state"] == "UNAVAILABLE"
        assert client.send("POST", "/v2/repository/models/doubling/load").status == 200
        assert client.infer(client.example()).status == 200
        assert client.get("/v2/health/ready").status == 200


def test_the_log_says_how_requests_ended_and_not_what_was_in_them(caplog: pytest.LogCaptureFixture) -> None:
    from pipeline.serving.log import JsonLines

    caplog.set_level(logging.INFO, "pipeline.serving")
    with local(Doubling()) as client:
        assert client.infer(client.example(data=[-0.123456, 0.5]), x_request_id="mine-7").status == 503
        assert client.infer(client.example(name="s3cret-name"), x_request_id="bad id\t{}").status == 400
    lines = [JsonLines().format(record) for record in caplog.records]
    ended = [line for line in map(json.loads, lines) if line["event"] == "request"]
    assert [(line["status"], line["reason"]) for line in ended] == [(503, "failed"), (400, "invalid")]
    assert ended[0]["request_id"] == "mine-7"
    assert ended[0]["ms"] > 0
    (failed,) = [json.loads(line) for line in lines if "traceback" in line]
    assert failed["error"] == "ValueError"
    assert any("doubling.py" in place for place in failed["traceback"])
    assert not any(text in line for text in ("0.123456", "s3cret", "bad id", "a secret of") for line in lines if line)


def test_a_defect_of_the_server_is_counted_and_answered_without_its_text() -> None:
    class Broken(Doubling):
        def check_shapes(self, shapes: Any) -> int:
            raise RuntimeError("an inner secret")

    with local(Broken()) as client:
        answer = client.infer(client.example())
        assert (answer.status, answer.error) == (500, "the server failed on this request")
        assert 'torchstone_refused_total{reason="defect"} 1.0' in client.get("/metrics").body.decode()


def test_integers_are_held_to_the_bounds_that_were_declared_and_to_no_others() -> None:
    sizes = np.array([[3, 4]])
    for low, high, refused in ((3, None, 2), (None, 5, 6), (3, 5, 6)):
        model = Doubling(spec=TensorSpec("x", "int64", ("batch", 2), low=low, high=high))
        assert Model.blame(model, [sizes]) is None
        assert isinstance(Model.blame(model, [np.full_like(sizes, refused)]), Refusal)


def test_waiting_requests_are_a_metric_of_what_is_served() -> None:
    model = Doubling(is_open=False)

    async def test() -> None:
        application, _, metrics = await application_of(model)
        first = asyncio.create_task(ask(application, INFER, [body(1)]))
        await until(model.began.is_set)
        second = asyncio.create_task(ask(application, INFER, [body(1)]))
        await asyncio.sleep(0)
        assert 'torchstone_waiting_requests{model="doubling",version="1"} 1.0' in metrics.text().decode()
        model.gate.set()
        await asyncio.gather(first, second)

    asyncio.run(test())


def test_the_client_in_this_process_is_the_one_over_http() -> None:
    with local(Doubling()) as client:
        assert isinstance(client, Client)
        assert client.infer(client.example(data=[1, 2])).fields["outputs"][0]["data"] == [2, 4]
