"""OpenVINO: the one place that compiles its models and runs them; its two backends differ in the precision of weights.

Left to itself OpenVINO computes in bfloat16 where the processor can, and saves weights as float16. Here both are told
otherwise, and what the compiled model says it does is read back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export import hints
from export.arrays import Array, contiguous, is_numpy, numpy_dtype, to_numpy, to_torch
from export.backend import Witness
from export.contents import Contents
from export.device import HOST

if TYPE_CHECKING:
    from export.artifact import Artifact
    from export.backend import LoadOptions

FILE = "model.xml"
_FLOAT32, _BFLOAT16 = "float32", "bfloat16"


def runtime_missing(where: str, module: str = "openvino", extra: str = "openvino") -> str | None:
    """Whether OpenVINO is installed, with the command that mends it; it runs on the CPU only."""
    import importlib.util

    if where != HOST.name:
        return "openvino runs on the CPU: leave it out of backends for another device"
    if importlib.util.find_spec(module) is None:
        return f"{module} is not installed: {hints.install(extra)}"
    return None


def convert(onnx_file: Path) -> Any:
    """An OpenVINO model of an ONNX file, every tensor under its name and weights as they are."""
    import openvino

    return openvino.convert_model(str(onnx_file))


def read_model(file: Path) -> Any:
    """A saved model, its weights beside it.

    Raises:
        RuntimeError: it is none, or damaged.
    """
    import openvino

    return openvino.Core().read_model(str(file))


def save(model: Any, folder: Path) -> None:
    """``model.xml`` and ``model.bin``, weights not halved."""
    import openvino

    openvino.save_model(model, str(folder / FILE), compress_to_fp16=False)


def quantize_model(model: Any, calls: Sequence[Mapping[str, Array]]) -> tuple[Any, int]:
    """NNCF's post-training quantisation on ``calls``; the model, and how many of its places were quantised."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    kinds = {node.get_type_name() for node in model.get_ordered_ops()}
    quantized = nncf.quantize(
        model,
        nncf.Dataset(list(calls)),
        subset_size=len(calls),
        # Attention loses most where its softmax's surroundings are quantised as a convolution's are.
        model_type=nncf.ModelType.TRANSFORMER
        if {"Softmax", "MatMul"} <= kinds and "Convolution" not in kinds
        else None,
    )
    count = sum(node.get_type_name() == "FakeQuantize" for node in quantized.get_ordered_ops())
    return quantized, count


def stored(folder: Path) -> Contents:
    """The constants of the saved model by name, which are the initializers of the ONNX file that it was made from."""
    model = read_model(folder / FILE)
    weights = {
        node.get_friendly_name(): node.data.copy()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Constant"
    }
    return Contents(how="OpenVINO model's constants", weights=weights)


class OpenVinoRequest:
    """``Loaded`` around a compiled model; concurrent callers bind, and so have a request each."""

    def __init__(self, artifact: Artifact, folder: Path, options: LoadOptions) -> None:
        import openvino

        self._model = openvino.Core().compile_model(
            str(folder / FILE),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": options.threads_count,
                "NUM_STREAMS": 1,
            },
        )
        self._options = options
        self._names = [spec.name for spec in artifact.signature.inputs]
        self._outputs = [self._model.output(spec.name) for spec in artifact.signature.outputs]
        self._request = self._model.create_infer_request()

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """One inference; its answers are copied out of the runtime's own memory."""
        as_numpy = is_numpy(inputs[0])
        self._feed(self._request, inputs)
        self._request.infer()
        outputs = [_data(self._request.get_tensor(port)).copy() for port in self._outputs]
        return outputs if as_numpy else [to_torch(output) for output in outputs]

    def bind(self, inputs: Sequence[Array]) -> Callable[[], Sequence[Array]]:
        """A request of its own that reads these very buffers and reuses its outputs."""
        request = self._model.create_infer_request()
        fed = self._feed(request, inputs)
        request.infer()
        arrays: list[Array] = [_data(request.get_tensor(port)) for port in self._outputs]
        views = arrays if is_numpy(inputs[0]) else [to_torch(array) for array in arrays]
        infer = request.infer

        def call() -> Sequence[Array]:
            infer()
            return views

        call.fed = fed  # type: ignore[attr-defined]  # the runtime reads this memory: it must live as long as the call
        return call

    def witness(self) -> Witness:
        """What the compiled model says of itself; another precision than float32 was not asked for."""
        properties = {
            name: self._model.get_property(name)
            for name in ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS", "EXECUTION_DEVICES")
        }
        precision = properties["INFERENCE_PRECISION_HINT"].to_dtype().name
        return Witness(
            device="cpu",
            evidence={
                "precision": precision,
                "threads": str(properties["INFERENCE_NUM_THREADS"]),
                "streams": str(properties["NUM_STREAMS"]),
                "devices": ", ".join(properties["EXECUTION_DEVICES"]),
            },
            fallback=None if precision == _FLOAT32 else f"computes in {precision}, float32 was asked for",
        )

    def _feed(self, request: Any, inputs: Sequence[Array]) -> list[Any]:
        arrays = [to_numpy(contiguous(array)) for array in inputs]
        for name, array in zip(self._names, arrays, strict=True):
            request.set_tensor(name, _shared(array))
        return arrays


def _shared(array: np.ndarray[Any, Any]) -> Any:
    """A tensor in the array's own memory; OpenVINO has bfloat16, its NumPy does not."""
    import openvino

    if array.dtype.name == _BFLOAT16:
        return openvino.Tensor(array.view(np.uint16), array.shape, openvino.Type.bf16)
    return openvino.Tensor(array, shared_memory=True)


def _data(tensor: Any) -> np.ndarray[Any, Any]:
    """A tensor's memory as an array; that of bfloat16 is handed out as if it were float16."""
    data: np.ndarray[Any, Any] = tensor.data
    return data.view(numpy_dtype(_BFLOAT16)) if tensor.element_type.get_type_name() == "bf16" else data
