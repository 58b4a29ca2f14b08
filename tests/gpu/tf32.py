"""Who multiplies float32 as TF32 after all: errors of a product and a convolution under every setting that forbids it.

``NVIDIA_TF32_OVERRIDE`` is read when a library is loaded, so each of its values has processes of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from tests.gpu.step import Context, python

_OVERRIDES = ("unset", "0", "1")
_KINDS = ("torch-old", "torch-new", "onnxruntime")
_SIDE = 1024
_MARK = "tf32 row: "


def tf32(context: Context) -> None:
    """A line for each override, kind and setting."""
    chosen = [(override, kind) for override in _OVERRIDES for kind in _KINDS]
    if context.small:
        chosen = [("unset", "torch-old"), ("unset", "onnxruntime")]
    with ThreadPoolExecutor(1 if context.small else len(_OVERRIDES)) as pool:
        for lines in pool.map(lambda one: _child(context.device, *one), chosen):
            for line in lines:
                context.row("relative error", **line)


def _child(device: str, override: str, kind: str) -> list[dict[str, Any]]:
    more = {} if override == "unset" else {"NVIDIA_TF32_OVERRIDE": override}
    done = python("-m", "tests.gpu.tf32", kind, device, **more)
    lines = [line.removeprefix(_MARK) for line in done.lines if line.startswith(_MARK)]
    found = [{"override": override, "kind": kind} | json.loads(line) for line in lines]
    if done.code:
        found.append({"override": override, "kind": kind, "error": done.cause})
    return found


def _old(wanted: bool | None) -> Callable[[], None]:
    def choose() -> None:
        if wanted is not None:
            torch.backends.cuda.matmul.allow_tf32 = wanted
            torch.backends.cudnn.allow_tf32 = wanted

    return choose


def _new(wanted: str, *, convolutions_off: bool = False) -> Callable[[], None]:
    def choose() -> None:
        backends: Any = torch.backends
        backends.fp32_precision = wanted
        if convolutions_off:
            torch.backends.cudnn.allow_tf32 = False

    return choose


_SETTINGS: dict[str, dict[str, Callable[[], None]]] = {
    "torch-old": {"nothing set": _old(None), "allow_tf32 off": _old(False), "allow_tf32 on": _old(True)},
    "torch-new": {
        "fp32_precision ieee": _new("ieee"),
        "fp32_precision tf32": _new("tf32"),
        "fp32_precision tf32, then cudnn.allow_tf32 off": _new("tf32", convolutions_off=True),
    },
}


def _print_torch(kind: str, device: str) -> None:
    a, b, image, kernel = _data()
    product, convolution = a.double() @ b.double(), torch.conv2d(image.double(), kernel.double())
    there = [one.to(device) for one in (a, b, image, kernel)]
    for name, choose in _SETTINGS[kind].items():
        line: dict[str, object] = {"setting": name}
        try:
            choose()
            line["matmul"] = _error(there[0] @ there[1], product)
            line["conv"] = _error(torch.conv2d(there[2], there[3]), convolution)
        except Exception as error:  # noqa: BLE001 - a setting that raises is a finding
            line["error"] = f"{type(error).__name__}: {error}"[:300]
        print(_MARK + json.dumps(line), flush=True)


def _print_onnxruntime(device: str) -> None:
    import onnxruntime

    from tests.gpu.sessions import providers

    a, b, image, kernel = _data()
    product, convolution = a.double() @ b.double(), torch.conv2d(image.double(), kernel.double())
    for flag in ("0", "1") if device == "cuda" else ("0",):
        line: dict[str, object] = {"setting": f"use_tf32 {flag}"}
        try:
            chosen = providers(device, use_tf32=flag)
            for name, operator, left, right, expected in (
                ("matmul", "MatMul", a, b, product),
                ("conv", "Conv", image, kernel, convolution),
            ):
                model = _one_node(operator, left, right)
                session = onnxruntime.InferenceSession(model, providers=chosen, enable_fallback=0)
                (answer,) = session.run(None, {"x": left.numpy()})
                line[name] = _error(torch.from_numpy(np.asarray(answer)), expected)
        except Exception as error:  # noqa: BLE001 - a setting that raises is a finding
            line["error"] = f"{type(error).__name__}: {error}"[:300]
        print(_MARK + json.dumps(line), flush=True)


def _one_node(operator: str, left: torch.Tensor, right: torch.Tensor) -> bytes:
    """A model of one operator, its second operand built in."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        operator,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(left.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(right.numpy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def _data() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    shapes = ((_SIDE, _SIDE), (_SIDE, _SIDE), (4, 64, 56, 56), (128, 64, 3, 3))
    return tuple(torch.randn(*shape) for shape in shapes)


def _error(answer: torch.Tensor, expected: torch.Tensor) -> float:
    return float((answer.double().cpu() - expected).norm() / expected.norm())


if __name__ == "__main__":
    if sys.argv[1] == "onnxruntime":
        _print_onnxruntime(sys.argv[2])
    else:
        _print_torch(sys.argv[1], sys.argv[2])
