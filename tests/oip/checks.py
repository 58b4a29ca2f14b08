"""The protocol, a check a rule: what a server must answer, and what it must refuse, saying what is wrong.

Where the protocol leaves a status open, any of 400 to 499 is right. A check raises ``AssertionError``, with the answer.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.oip.client import Answer, Client

CHECKS: dict[str, Callable[[Client], None]] = {}


def check(function: Callable[[Client], None]) -> Callable[[Client], None]:
    """Add a check, under its name as a sentence."""
    CHECKS[function.__name__.replace("_", " ")] = function
    return function


def good(answer: Answer) -> Any:
    assert answer.status == 200, (answer.status, answer.body[:300])
    return answer.fields


def refused(answer: Answer, *named: str) -> None:
    """A 4xx in the protocol's form, which names what is wrong."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:300])
    assert all(name in answer.error for name in named), (named, answer.error)
    assert "Traceback" not in answer.error


@check
def the_server_says_that_it_lives_and_is_ready(client: Client) -> None:
    assert client.get("/v2/health/live").status == client.get("/v2/health/ready").status == 200
    assert client.get(f"/v2/models/{client.model}/ready").status == 200


@check
def the_server_tells_its_name_its_version_and_its_extensions(client: Client) -> None:
    fields = good(client.get("/v2"))
    assert {"name", "version", "extensions"} <= fields.keys()


@check
def a_model_tells_its_inputs_and_outputs(client: Client) -> None:
    fields = client.metadata
    assert fields["name"] == client.model
    for tensor in (*fields["inputs"], *fields["outputs"]):
        assert {"name", "datatype", "shape"} <= tensor.keys()


@check
def every_output_is_answered_with_its_shape_and_all_of_its_elements(client: Client) -> None:
    fields = good(client.infer(client.example() | {"id": "an id"}))
    assert fields["id"] == "an id"
    assert fields["model_name"] == client.model
    assert [tensor["name"] for tensor in fields["outputs"]] == [tensor["name"] for tensor in client.metadata["outputs"]]
    for tensor in fields["outputs"]:
        count = 1
        for size in tensor["shape"]:
            count *= size
        assert len(tensor["data"]) == count


@check
def a_version_is_answered_by_its_name(client: Client) -> None:
    for version in client.metadata.get("versions", []):
        path = f"/v2/models/{client.model}/versions/{version}"
        assert client.get(path).status == client.get(f"{path}/ready").status == 200
        body = json.dumps(client.example()).encode()
        answer = client.send("POST", f"{path}/infer", body, content_type="application/json")
        assert good(answer)["model_version"] == version


@check
def binary_tensors_are_taken_and_answered_as_json_ones(client: Client) -> None:
    request, binary = client.binary_example()
    asked = [{"name": tensor["name"], "parameters": {"binary_data": True}} for tensor in client.metadata["outputs"]]
    answer = client.infer(request | {"outputs": asked}, binary)
    fields = good(answer)
    sizes = [tensor["parameters"]["binary_data_size"] for tensor in fields["outputs"]]
    assert len(answer.body) == int(answer.headers["inference-header-content-length"]) + sum(sizes)
    assert good(client.infer(request, binary))["outputs"] == good(client.infer(client.example()))["outputs"]


@check
def all_outputs_are_binary_where_the_request_says_so(client: Client) -> None:
    fields = good(client.infer(client.example() | {"parameters": {"binary_data_output": True}}))
    assert all("data" not in tensor for tensor in fields["outputs"])


@check
def only_the_outputs_that_are_asked_for_are_answered(client: Client) -> None:
    name = client.metadata["outputs"][-1]["name"]
    fields = good(client.infer(client.example() | {"outputs": [{"name": name}]}))
    assert [tensor["name"] for tensor in fields["outputs"]] == [name]


@check
def nested_data_is_the_same_as_flat(client: Client) -> None:
    tensor = client.example()["inputs"][0]
    nested = tensor["data"]
    for size in reversed(tensor["shape"][1:]):
        nested = [nested[begin : begin + size] for begin in range(0, len(nested), size)]
    flat = good(client.infer(client.example()))["outputs"]
    assert good(client.infer(client.example(data=nested)))["outputs"] == flat


@check
def compressed_bodies_are_unpacked(client: Client) -> None:
    plain = json.dumps(client.example()).encode()
    for encoding, body in (("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain))):
        good(client.infer(body, content_encoding=encoding))


@check
def what_does_not_exist_is_refused(client: Client) -> None:
    body = json.dumps(client.example()).encode()
    refused(client.get("/v2/models/no_such_model"), "no_such_model")
    refused(client.send("POST", "/v2/models/no_such_model/infer", body), "no_such_model")
    refused(client.send("POST", f"/v2/models/{client.model}/versions/987654/infer", body), "987654")
    refused(client.get("/v2/no/such/place"))


@check
def another_method_is_refused(client: Client) -> None:
    assert client.get(f"/v2/models/{client.model}/infer").status == 405
    assert client.send("DELETE", "/v2/health/live").status == 405


def _wrong_inputs(client: Client) -> Iterator[tuple[dict[str, Any], str]]:
    """Requests of which one field of the first input is wrong, and what the error must name."""
    right = client.example()["inputs"][0]
    name, shape, data = right["name"], right["shape"], right["data"]
    yield client.example(name="no_such_input"), "no_such_input"
    yield client.example(datatype="INT8" if right["datatype"] != "INT8" else "FP64"), name
    yield client.example(datatype="NO_TYPE"), name
    yield client.example(datatype="BYTES", data=["a"] * len(data)), name
    yield client.example(shape=[*shape, 1]), name
    yield client.example(shape=[*shape[:-1], shape[-1] + 1]), name
    yield client.example(shape=[-1 for _ in shape]), name
    yield client.example(shape=[1 << 62 for _ in shape]), name
    yield client.example(shape=[1_000_000_000, *shape[1:]]), name
    yield client.example(shape="2"), "shape"
    yield client.example(shape=[1.5 for _ in shape]), "shape"
    yield client.example(data=[*data, 0]), name
    yield client.example(data=data[:-1]), name
    yield client.example(data=["a" for _ in data]), name
    yield client.example(data=[None for _ in data]), name
    yield client.example(data=None), name
    yield client.example(data={"a": 1}), name
    yield client.example(data=[[data], data]), name
    yield client.example(data=data, parameters={"binary_data_size": 8}), name
    yield client.example(data=[10**400 for _ in data]), name


@check
def a_wrong_input_is_refused_by_name(client: Client) -> None:
    for request, named in _wrong_inputs(client):
        try:
            refused(client.infer(request), named)
        except AssertionError as error:
            raise AssertionError(f"{json.dumps(request)[:300]}: {error}") from error
    good(client.infer(client.example()))


@check
def missing_and_doubled_inputs_and_unknown_outputs_are_refused(client: Client) -> None:
    right = client.example()["inputs"]
    refused(client.infer({"inputs": right[1:]}), right[0]["name"])
    refused(client.infer({"inputs": [*right, right[0]]}), right[0]["name"])
    refused(client.infer({"inputs": right, "outputs": [{"name": "no_such_output"}]}), "no_such_output")
    refused(client.infer({}), "inputs")
    refused(client.infer({"inputs": {}}), "inputs")


@check
def what_is_no_json_is_refused(client: Client) -> None:
    text = json.dumps(client.example())
    for body in (
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 200_000, text.encode()[:-1], text.encode() + b"}",
        text.replace("[0", "[NaN", 1).encode(), b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
    ):  # fmt: skip
        refused(client.infer(body))
    deep = json.dumps(client.example(data="DEEP")).replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    refused(client.infer(deep.encode()))
    good(client.infer(client.example()))


@check
def binary_data_of_another_length_is_refused(client: Client) -> None:
    request, binary = client.binary_example()
    name = request["inputs"][0]["name"]
    length = str(len(json.dumps(request)))
    refused(client.infer(request, binary + b"\0"), "1")
    refused(client.infer(request, binary[:-1]))
    refused(client.infer(request, binary, inference_header_content_length=str(len(binary) + 100_000)))
    for wrong in ("abc", "-1", "1.5", "9" * 30, str(int(length) - 1), str(int(length) + 1)):
        refused(client.infer(request, binary, inference_header_content_length=wrong))
    for size in (-1, 1.5, "8", None, True, 1 << 70, len(binary) + 1, len(binary) - 1):
        request["inputs"][0]["parameters"]["binary_data_size"] = size
        refused(client.infer(request, binary), name)


@check
def bodies_of_another_type_or_encoding_are_refused(client: Client) -> None:
    assert client.infer(client.example(), content_type="text/plain").status == 415
    assert client.infer(client.example(), content_encoding="br").status == 415
    refused(client.infer(client.example(), content_encoding="gzip"))
    cut = gzip.compress(json.dumps(client.example()).encode())[:-4]
    refused(client.infer(cut, content_encoding="gzip"))


def _bomb(size_mb: int) -> bytes:
    """So many MiB of zeros in a thousandth of that: one block again and again, quicker than to compress them all."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = bytes(1 << 20)
    block = compressor.compress(zeros) + compressor.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(size_mb):
        crc = zlib.crc32(zeros, crc)
    trailer = struct.pack("<II", crc, size_mb << 20)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * size_mb + compressor.flush() + trailer


@check
def a_small_body_that_unpacks_to_very_much_is_refused(client: Client) -> None:
    assert client.infer(_bomb(256), content_encoding="gzip").status == 413


@check
def the_repository_lists_its_models(client: Client) -> None:
    rows = good(client.send("POST", "/v2/repository/index"))
    assert client.model in {row["name"] for row in rows}
