"""Every datatype: what is exact goes through, what is not is refused by name."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from export.signature import Signature, SizeRange
from export.tensor import DTYPES, TensorSpec
from pipeline.serving.model import most_marks
from pipeline.serving.protocol.datatypes import BINARY_ONLY, DATATYPES
from pipeline.serving.protocol.refusal import Refusal
from pipeline.serving.protocol.requests import Asked, read_request
from pipeline.serving.protocol.responses import inference_response


class Contract:
    """A signature of one input and one output of a dtype."""

    def __init__(self, dtype: str) -> None:
        spec = TensorSpec("x", dtype, ("rows", 2))
        ranges = {"rows": SizeRange(max=8)}
        self.signature = Signature(
            inputs=(spec,), output_names=("y",), outputs=(TensorSpec("y", dtype, spec.shape),), ranges=ranges
        )
        self.most_marks = most_marks(self.signature)

    def check_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        return self.signature.check_shapes(shapes)["rows"]

    def check_values(self, arrays: list[np.ndarray[Any, Any]]) -> None:
        self.signature.check_arrays(arrays)


def read(dtype: str, data: Any, binary: bytes | None = None) -> Asked:
    tensor: dict[str, Any] = {"name": "x", "datatype": DATATYPES[dtype], "shape": [2, 2]}
    if binary is None:
        body = json.dumps({"inputs": [tensor | {"data": data}], "outputs": [{"name": "y"}]}).encode()
        return read_request(body, None, Contract(dtype))
    tensor["parameters"] = {"binary_data_size": len(binary)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return read_request(head + binary, str(len(head)).encode(), Contract(dtype))


def test_the_datatypes_are_the_protocols() -> None:
    assert {*DATATYPES.values()} == {
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
        "BF16",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_sent_comes_back_bit_for_bit(dtype: str) -> None:
    kind = np.dtype(dtype)
    if dtype == "bool":
        array = np.array([[True, False], [False, True]])
    elif dtype == "bfloat16" or kind.kind == "f":
        limits = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
        array = np.array([[0.1, limits.max], [limits.tiny, -limits.max]], kind)
    else:
        array = np.array([[np.iinfo(kind).min, np.iinfo(kind).max], [0, 1]], kind)
    asked = read(dtype, None, array.tobytes())
    np.testing.assert_array_equal(asked.arrays[0], array, strict=True)
    answer = inference_response("m", "1", asked, Contract(dtype).signature.outputs, asked.arrays)
    assert answer.body.endswith(array.tobytes())
    if DATATYPES[dtype] in BINARY_ONLY:
        with pytest.raises(Refusal, match="binary data"):
            read(dtype, array.ravel().tolist())
        return
    for data in (array.ravel().tolist(), array.tolist()):
        asked = read(dtype, data)
        np.testing.assert_array_equal(asked.arrays[0], array, strict=True)
        (output,) = json.loads(
            inference_response("m", "1", asked, Contract(dtype).signature.outputs, asked.arrays).body
        )["outputs"]
        np.testing.assert_array_equal(np.array(output["data"], dtype).reshape(2, 2), array, strict=True)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("uint8", 256), ("uint8", -1), ("int8", 128), ("int64", 1 << 63), ("uint64", 1 << 64), ("uint64", -1),
        ("float32", 1e39), ("float32", 3.4028236e38), ("float64", 10**400), ("int32", 1.5), ("int32", True),
        ("bool", 1), ("float32", True), ("float32", "1"), ("int64", None), ("float32", [1]),
    ],
)  # fmt: skip
def test_a_value_that_the_datatype_does_not_have_is_refused(dtype: str, value: Any) -> None:
    right = False if dtype == "bool" else 0
    assert read(dtype, [right] * 4).rows == 2
    with pytest.raises(Refusal, match="'x'") as refusal:
        read(dtype, [right, right, right, value])
    assert refusal.value.status == 400


def test_a_bool_in_binary_data_is_0_or_1() -> None:
    assert read("bool", None, bytes([0, 1, 1, 0])).arrays[0].tolist() == [[False, True], [True, False]]
    with pytest.raises(Refusal, match="must be 0 or 1"):
        read("bool", None, bytes([0, 1, 2, 0]))


def test_nested_data_of_another_form_is_refused() -> None:
    for data in ([[0, 0], [0]], [[0, 0, 0], [0]], [[0, 0], 0], [[[0, 0], [0, 0]]], [[0], [0], [0], [0]]):
        with pytest.raises(Refusal, match="'x'"):
            read("float32", data)


@pytest.mark.parametrize("timeout", [0, -1, 1.5, True, "soon", [1]])
def test_a_timeout_is_microseconds(timeout: Any) -> None:
    tensor = {"name": "x", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]}

    def asked(parameters: dict[str, Any]) -> Asked:
        return read_request(json.dumps({"inputs": [tensor], "parameters": parameters}).encode(), None, Contract("int8"))

    assert asked({"timeout": 1500}).timeout_s == 1.5e-3
    assert asked({}).timeout_s is None
    with pytest.raises(Refusal, match="timeout"):
        asked({"timeout": timeout})
    for name in ("sequence_id", "shared_memory_region", "classification"):
        with pytest.raises(Refusal, match=name):
            asked({name: 1})
