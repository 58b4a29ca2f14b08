"""How near the server comes to its own HTTP stack, and to the model in process.

    python -m tests.measure.serving BUNDLE [--rounds-count 8] [--window-s 1]

The same client asks, in turn, the server and an application of one constant answer on the same stack; ratios are of
neighbouring windows, so that what else the machine does falls on both. Prints a table for docs/measured/serving.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.verifier.artifacts import OnnxArtifact
from pipeline.verifier.speed import first_rows
from tests.measure.serving.client import Window, window
from tests.pipeline.serving.servers import serving

_CONNECTIONS = (1, 8, 32)
_CONSTANT = """
import uvicorn
body = bytes.fromhex("{body}")
headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
async def application(scope, receive, send):
    await receive()
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
config = uvicorn.Config(application, port={port}, http="httptools", loop="uvloop", ws="none", lifespan="off",
    log_config=None, access_log=False, server_header=False, proxy_headers=False)
uvicorn.Server(config).run()
"""


@contextlib.contextmanager
def constant(body: bytes) -> Iterator[int]:
    """The stack with one constant answer; its port."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", _CONSTANT.format(body=body.hex(), port=port)])
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def http(model: str, inputs: Mapping[str, np.ndarray[Any, Any]], *, as_binary: bool) -> bytes:
    """A request as bytes."""
    tensors, binary = [], b""
    for name, array in inputs.items():
        tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": [*array.shape]}
        if as_binary:
            binary += array.tobytes()
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        else:
            tensor["data"] = array.ravel().tolist()
        tensors.append(tensor)
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": as_binary}}).encode()
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(head) + len(binary)}"]
    if as_binary:
        lines += ["Content-Type: application/octet-stream", f"Inference-Header-Content-Length: {len(head)}"]
    else:
        lines.append("Content-Type: application/json")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + head + binary


def in_process(folder: Path, bundle: Mapping[str, Any], rows: int) -> float:
    """Rows a second of calls of so many rows, in this process alone."""
    artifact = OnnxArtifact(folder, bundle, bundle["shipped"][0])
    artifact.load()
    inputs = first_rows(folder, bundle, rows)
    count, began_s = 0, time.monotonic()
    while time.monotonic() - began_s < 1:
        artifact.call(inputs)
        count += 1
    return count * rows / (time.monotonic() - began_s)


def _ratio(pairs: list[tuple[Window, Window]]) -> str:
    """The median of paired ratios, and the quartiles."""
    low, middle, high = statistics.quantiles([server.per_s / stack.per_s for server, stack in pairs], n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def measure(folder: Path, rounds_count: int, window_s: float) -> None:
    """All of it, as a table."""
    bundle = json.loads((folder / "bundle.json").read_bytes())
    inputs = first_rows(folder, bundle, 1)
    with serving(folder) as server:
        own = server.client()
        answer = own.infer(json.loads(http(own.model, inputs, as_binary=False).partition(b"\r\n\r\n")[2]))
        port = int(server.url.rpartition(":")[2])
        with constant(answer.body) as constant_port:
            print("| body | connections | server /s | p50 us | p99 us | constant /s | p50 us | ratio |")
            print("|---|---|---|---|---|---|---|---|")
            for as_binary in (False, True):
                request = http(own.model, inputs, as_binary=as_binary)
                for count in _CONNECTIONS:
                    pairs = [
                        (window(port, count, window_s, request), window(constant_port, count, window_s, request))
                        for _ in range(rounds_count)
                    ]
                    best, other = (max(side, key=lambda seen: seen.per_s) for side in zip(*pairs, strict=True))
                    print(
                        f"| {'binary' if as_binary else 'JSON'} | {count} | {best.per_s:,.0f} | {best.p50_us:.0f} "
                        f"| {best.p99_us:.0f} | {other.per_s:,.0f} | {other.p50_us:.0f} | {_ratio(pairs)} |", flush=True
                    )  # fmt: skip
    for rows in (1, 8, 32):
        print(f"in process, {rows} rows a call: {in_process(folder, bundle, rows):,.0f} rows/s")


def main() -> None:
    """Measure the bundle that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds-count", type=int, default=8)
    parser.add_argument("--window-s", type=float, default=1.0)
    parsed = parser.parse_args()
    measure(parsed.bundle.resolve(), parsed.rounds_count, parsed.window_s)


if __name__ == "__main__":
    main()
