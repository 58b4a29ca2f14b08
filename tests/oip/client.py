"""A client that sends exactly what it is told, right or wrong; ``tritonclient`` would mend or refuse it first."""

from __future__ import annotations

import http.client
import json
import math
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

SIZES = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4, "UINT32": 4, "FP32": 4,
    "INT64": 8, "UINT64": 8, "FP64": 8,
}  # fmt: skip
"""Bytes of an element."""


@dataclass(frozen=True)
class Answer:
    """A status, headers in lower case, a body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def fields(self) -> Any:
        """The JSON part."""
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body[: int(length)] if length else self.body)

    @property
    def error(self) -> str:
        """What an error says; a KeyError if it is no error as the protocol has them."""
        return str(self.fields["error"])


@dataclass
class Client:
    """One keep-alive connection to a server, and a model there whose inputs can be made up."""

    url: str
    model: str
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request, such as a key."""

    def __post_init__(self) -> None:
        place = urlsplit(self.url)
        self.host, self.port = place.hostname or "", place.port or 80
        self._connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        self.metadata = self.get(f"/v2/models/{quote(self.model)}").fields

    def get(self, path: str) -> Answer:
        """A GET."""
        return self.send("GET", path)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Any request; ``content_type="text/plain"`` is the header ``Content-Type``."""
        spelled = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._connection.request(method, path, body, self.headers | spelled)
            return self.end()
        except (http.client.HTTPException, OSError):
            self._connection.close()
            raise

    def begin(self, request: Any) -> None:
        """Ask the model, and do not wait for the answer: ``end()`` returns it."""
        headers = self.headers | {"content-type": "application/json"}
        self._connection.request("POST", f"/v2/models/{quote(self.model)}/infer", json.dumps(request).encode(), headers)

    def end(self) -> Answer:
        """The answer to what was asked last."""
        response = self._connection.getresponse()
        answer = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, answer)

    def infer(self, request: Any, binary: bytes = b"", **headers: str) -> Answer:
        """Ask the model; ``request`` is made JSON if it is not bytes, with ``binary`` after it."""
        head = request if isinstance(request, bytes) else json.dumps(request).encode()
        if binary:
            headers.setdefault("inference_header_content_length", str(len(head)))
        headers.setdefault("content_type", "application/octet-stream" if binary else "application/json")
        return self.send("POST", f"/v2/models/{quote(self.model)}/infer", head + binary, **headers)

    def example(self, **changes: Any) -> dict[str, Any]:
        """A request that is right, of zeros; ``changes`` are of its first input."""
        inputs = []
        for tensor in self.metadata["inputs"]:
            shape = [1 if size == -1 else size for size in tensor["shape"]]
            data = [False if tensor["datatype"] == "BOOL" else 0] * math.prod(shape)
            inputs.append({"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": data})
        inputs[0] |= changes
        return {"inputs": inputs}

    def binary_example(self) -> tuple[dict[str, Any], bytes]:
        """The same with every input as binary data."""
        request, binary = self.example(), b""
        for tensor in request["inputs"]:
            size = len(tensor.pop("data")) * SIZES[tensor["datatype"]]
            tensor["parameters"] = {"binary_data_size": size}
            binary += bytes(size)
        return request, binary
