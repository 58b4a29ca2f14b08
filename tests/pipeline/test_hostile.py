"""Files made to harm: refused with the reason, in bounded time and memory, before or while they are run."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.verifier.onnx_file import scan_onnx
from pipeline.verifier.outcome import Refused
from tests.conftest import within_cpu_s
from tests.pipeline.bundles import check, forge_all


def _model(path: Path, nodes: list[Any], initializers: list[Any] | None = None, opset: int = 13) -> None:
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 2])],
        initializers or [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())


def _external(path: Path, location: str, offset: int = 0, length: int = 16) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    _model(path, [helper.make_node("MatMul", ["x", "w"], ["probability"])], [tensor])


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = len(data), b""
    while size >= 128:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def _million_nodes(path: Path) -> None:
    node = helper.make_node("Relu", ["a"], ["b"]).SerializeToString()
    path.write_bytes(b"\x08\x07" + _field(7, _field(1, node) * 1_000_000))


def _nested(path: Path) -> None:
    """Graphs in attributes of nodes of graphs, 2,000 deep: more than protobuf itself would make."""
    graph = _field(1, helper.make_node("Relu", ["x"], ["y"]).SerializeToString())
    for _ in range(2000):
        graph = _field(1, _field(5, _field(6, graph)))
    path.write_bytes(b"\x08\x07" + _field(7, graph))


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (_truncated, "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "no protobuf": (lambda path: path.write_bytes(b"\xff" * 100), "truncated or not an ONNX"),
    "a length beyond the file": (lambda path: path.write_bytes(b"\x3a\xff\xff\xff\xff\x7f"), "truncated"),
    "a group": (lambda path: path.write_bytes(struct.pack("B", 7 << 3 | 3)), "not an ONNX file"),
    "weights in /etc": (lambda path: _external(path, "/etc/passwd"), "not a file of the bundle"),
    "weights above": (lambda path: _external(path, "../secret.bin"), "not a file of the bundle"),
    "weights in a record": (lambda path: _external(path, "records/../../x"), "not a file of the bundle"),
    "huge weights": (lambda path: _external(path, "workload.onnx", length=1 << 50), "which has"),
    "weights before the file": (lambda path: _external(path, "workload.onnx", offset=-8), "which has"),
    "a million nodes": (_million_nodes, "more than 250000 nodes"),
    "deep nesting": (_nested, "nested more than 64 deep"),
    "an opset of the future": (
        lambda path: _model(path, [helper.make_node("Relu", ["x"], ["probability"])], opset=9999),
        "9999",
    ),
    "an operator that nobody has": (
        lambda path: _model(path, [helper.make_node("Nobody", ["x"], ["probability"])]),
        "Nobody",
    ),
    "a constant of 4 TiB": (
        lambda path: _model(
            path,
            [
                helper.make_node("ConstantOfShape", ["n"], ["big"]),
                helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
                helper.make_node("Add", ["x", "sum"], ["probability"]),
            ],
            [numpy_helper.from_array(np.array([1 << 40]), "n")],
        ),
        "ConstantOfShape",
    ),
    "another output": (
        lambda path: _model(path, [helper.make_node("Relu", ["x"], ["probability"])]),
        "golden is",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_model_is_refused_with_the_reason_in_bounded_time_and_memory(kind: str, bundle: Path) -> None:
    make, reason = HOSTILE[kind]
    make(bundle / "model.onnx")
    forge_all(bundle)
    with within_cpu_s(30), pytest.raises(Refused, match=reason):
        check(bundle, memory_mb=4096, time_s=30.0)


def test_the_file_that_ships_has_as_many_nodes_as_onnx_says(bundle: Path) -> None:
    path = bundle / "model.onnx"
    assert scan_onnx(path, {}, "") == len(onnx.load(str(path)).graph.node)


def test_a_process_that_hangs_is_ended(bundle: Path) -> None:
    """A loop of 2**62 turns in the file: the wall-clock limit ends it."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["was"], ["is"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("was", TensorProto.FLOAT, ["batch", 2]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("is", TensorProto.FLOAT, ["batch", 2]),
        ],
    )
    loop = helper.make_node("Loop", ["turns", "", "x"], ["probability"], body=body)
    _model(bundle / "model.onnx", [loop], [numpy_helper.from_array(np.array(1 << 62), "turns")])
    forge_all(bundle)
    with pytest.raises(Refused, match="did not answer within 3 s"):
        check(bundle, time_s=3.0)
