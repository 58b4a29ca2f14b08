"""ONNX Runtime: the one place that opens a session and runs it; the ONNX backends differ in how the file came to be.

Loading and running need numpy and onnxruntime alone; torch is imported only for tensors of torch, and bfloat16.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from export.arrays import Array, is_numpy, to_numpy, to_torch
from export.backend import LoadOptions, Witness
from export.device import Device, device
from export.environment import versions
from export.errors import UserError
from export.runtimes.placement import placement
from export.runtimes.precision import arithmetic
from export.runtimes.provider_library import unloadable

if TYPE_CHECKING:
    from export.signature import Signature, TensorSpec

_NO_GRAPH = "-1"
"""The run option ``gpu_graph_id`` of a call that is not captured."""
_BFLOAT16, _BFLOAT16_IN_ONNX = "bfloat16", 16


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeOptions:
    """What ONNX Runtime can be told otherwise."""

    optimization: Literal["off", "basic", "extended", "all"] = "all"
    """How far the graph is rewritten when it is loaded."""
    spinning: bool = False
    """Whether idle threads spin. Off wherever several runtimes share a process."""
    cuda_graph: bool = False
    """Whether a bound call on a GPU is captured once, and replayed from then on."""
    cudnn_search: Literal["exhaustive", "heuristic", "default"] = "exhaustive"
    """How a convolution's algorithm is chosen on a GPU: by trying all at a shape's first call, by rule, or fixed."""


def runtime_missing(where: Device) -> str | None:
    """Whether an ONNX Runtime is installed, and has the device's provider, which loads."""
    installed = [f"{name} {version}" for name, version in versions().items() if name.startswith("onnxruntime")]
    if not installed:
        return "onnxruntime is not installed: pip install onnxruntime-gpu (or onnxruntime where it has no wheel)"
    if where.asynchronous:
        import onnxruntime

        if where.provider not in onnxruntime.get_available_providers():
            return f"this onnxruntime has no {where.provider}: pip install onnxruntime-gpu"
        return unloadable(Path(onnxruntime.__file__).parent, installed[0], where)
    return None


def open_session(
    model: str | bytes,
    options: LoadOptions,
    runtime: OnnxRuntimeOptions,
    *,
    disabled_optimizers: Sequence[str] = (),
    rewritten: Path | None = None,
    stream: Any = None,
) -> Any:
    """ONNX Runtime on a file, or on a serialized model, with the settings that every use of an artifact shares.

    ``rewritten`` is where the graph is left as the runtime runs it; on a GPU all work goes to ``stream``, if given.

    Raises:
        UserError: the device's provider did not open; the runtime would have gone on without it.
    """
    where = device(options.device)
    if where.asynchronous:
        import torch  # noqa: F401 - brings the CUDA libraries that the provider is linked against
    import onnxruntime

    level = "DISABLE_ALL" if runtime.optimization == "off" else f"ENABLE_{runtime.optimization.upper()}"
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    settings.intra_op_num_threads = options.threads_count
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    if rewritten is not None:
        settings.optimized_model_filepath = str(rewritten)
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(runtime.spinning)))
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(
        model,
        settings,
        providers=_providers(where, runtime, stream),
        enable_fallback=0,
        disabled_optimizers=list(disabled_optimizers) or None,
    )
    if where.provider not in session.get_providers():
        reason = runtime_missing(where) or "it gives no reason; its own log may"
        raise UserError(f"ONNX Runtime did not open {where.provider} for {where.name}: {reason}")
    return session


def refusals() -> tuple[type[Exception], ...]:
    """What ``open_session`` raises for a graph that ONNX Runtime has no kernels for."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    return errors.NotImplemented, errors.Fail, errors.InvalidGraph


def _providers(where: Device, runtime: OnnxRuntimeOptions, stream: Any) -> list[Any]:
    """The one provider. The runtime adds the CPU's, which computes sizes for a GPU; a witness says what else."""
    if not where.asynchronous:
        return [where.provider]
    settings = {
        "device_id": str(where.index),
        "use_tf32": "0",
        "enable_cuda_graph": str(int(runtime.cuda_graph)),
        "cudnn_conv_algo_search": runtime.cudnn_search.upper(),
    }
    if stream is not None:
        settings |= {"user_compute_stream": str(stream.cuda_stream), "do_copy_in_default_stream": "1"}
    return [(where.provider, settings)]


def quantize_file(plain: Path, quantized: Path, calls: Sequence[Mapping[str, Array]]) -> int:
    """Static int8 with weights per channel and ranges (smallest, largest) from ``calls``; returns the nodes converted.

    Signed weights and activations: what ONNX Runtime advises for the CPU.
    """
    import onnx
    from onnxruntime import quantization

    model = onnx.load(str(plain))
    del model.graph.value_info[:]  # the exporter's would contradict weights that the tool transposes
    onnx.save(model, str(plain))
    prepared = plain.with_name("prepared.onnx")
    quantization.quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    left = iter(calls)
    quantization.quantize_static(
        str(prepared),
        str(quantized),
        SimpleNamespace(get_next=lambda: next(left, None)),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    nodes = onnx.load(str(quantized)).graph.node
    dequantized = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    return sum(node.op_type in {"Conv", "Gemm", "MatMul"} and dequantized.issuperset(node.input[:2]) for node in nodes)


def _in_place(array: np.ndarray[Any, Any]) -> Any:
    """The array's own memory as the runtime takes it: bfloat16 by ONNX's number, since its NumPy knows of none."""
    from onnxruntime import OrtValue

    if array.dtype.name != _BFLOAT16:
        return OrtValue.ortvalue_from_numpy(array)
    return OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16_IN_ONNX)


def _rewritten(model: Path, options: LoadOptions, runtime: OnnxRuntimeOptions) -> Any:
    """The graph as the runtime runs it."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="torchstone-onnx-") as scratch:
        rewritten = Path(scratch) / "rewritten.onnx"
        open_session(str(model), options, runtime, rewritten=rewritten)
        return onnx.load(str(rewritten), load_external_data=False).graph  # which lies beside the first file


class OnnxSession:
    """``Loaded`` around an ONNX Runtime session."""

    def __init__(self, model: Path, signature: Signature, options: LoadOptions, runtime: OnnxRuntimeOptions) -> None:
        self._device = device(options.device)
        if runtime.cuda_graph:
            self._device.check_captures()
        self._stream = self._device.new_stream()
        self._session = open_session(str(model), options, runtime, stream=self._stream)
        self._graphs = itertools.count(1)  # the runtime itself gives 0 to calls that name none
        captures = threading.Lock() if runtime.cuda_graph else None
        self._in_turn = captures or contextlib.nullcontext()  # what another thread launches meanwhile would be captured
        self._model = model
        self._options = options
        self._runtime = runtime
        self._signature = signature
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]
        self._has_bfloat16 = any(spec.dtype == _BFLOAT16 for spec in (*signature.inputs, *signature.outputs))

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """One run with outputs that ONNX Runtime allocates, where the inputs lie."""
        as_numpy = is_numpy(inputs[0])
        if (as_numpy or self._stream is None) and not self._has_bfloat16:
            fed = dict(zip(self._inputs, inputs if as_numpy else map(to_numpy, inputs), strict=True))
            with self._in_turn:
                outputs: list[Array] = self._session.run(self._outputs, fed, self._uncaptured())
            return outputs if as_numpy else [to_torch(output) for output in outputs]
        return self._views(self._run_bound(inputs).get_outputs(), as_numpy=as_numpy)

    def bind(self, inputs: Sequence[Array]) -> Callable[[], Sequence[Array]]:
        """Inputs and outputs bound once to fixed memory, which ONNX Runtime then reads and writes in place."""
        binding = self._run_bound(inputs)
        results = binding.get_outputs()
        for name, value in zip(self._outputs, results, strict=True):
            binding.bind_ortvalue_output(name, value)
        arrays = self._views(results, as_numpy=is_numpy(inputs[0]))
        run = self._session.run_with_iobinding
        if self._stream is not None:
            run = self._in_order(str(next(self._graphs)) if self._runtime.cuda_graph else _NO_GRAPH)

        def call(kept: Sequence[Array] = inputs) -> Sequence[Array]:  # a binding keeps no tensor of torch alive
            run(binding)
            return arrays

        return call

    def _in_order(self, graph: str) -> Callable[[Any], None]:
        """A bound call on the GPU, after what torch was told before and before what it is told next; the host goes on.

        ``graph`` numbers what is captured: the first calls with it record, later ones replay on the same memory.
        """
        import onnxruntime

        stream, run, current = self._stream, self._session.run_with_iobinding, self._device.current_stream
        run_options = onnxruntime.RunOptions()
        run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._runtime.cuda_graph:
            run_options.add_run_config_entry("gpu_graph_id", graph)

        def call(binding: Any) -> None:
            caller = current()
            with self._in_turn:
                stream.wait_stream(caller)
                run(binding, run_options)
                caller.wait_stream(stream)

        return call

    def _uncaptured(self) -> Any:
        """Run options of a call that must not be captured; None where none is.

        Without a number the runtime would capture the call, and replay it on the memory of the first one's inputs.
        """
        if not self._runtime.cuda_graph:
            return None
        import onnxruntime

        run_options = onnxruntime.RunOptions()
        run_options.add_run_config_entry("gpu_graph_id", _NO_GRAPH)
        return run_options

    def witness(self) -> Witness:
        """Nodes per execution provider, as the runtime assigned them."""
        wanted = self._device.provider
        rewritten = _rewritten(self._model, self._options, self._runtime)
        placed = placement(self._session, wanted, self._graphs_with(rewritten))
        return Witness(
            device=self._device.name,
            evidence=placed.evidence() | arithmetic(rewritten, self._model),
            fallback=placed.fallback(wanted),
        )

    def _graphs_with(self, rewritten: Any) -> Iterator[Any]:
        """The graph as it runs, and as it came: read only where nodes are looked for, since it holds the weights."""
        import onnx

        yield rewritten
        yield onnx.load(str(self._model), load_external_data=False).graph

    def _run_bound(self, inputs: Sequence[Array]) -> Any:
        """A binding to ``inputs`` that has run once, into outputs that ONNX Runtime allocated on the device."""
        binding = self._binding(inputs)
        for name in self._outputs:
            binding.bind_output(name, self._device.kind, self._device.index)
        if self._stream is None:
            self._session.run_with_iobinding(binding)
        else:
            self._in_order(_NO_GRAPH)(binding)
        return binding

    def _binding(self, inputs: Sequence[Array]) -> Any:
        """A binding that reads the very memory of ``inputs``; NumPy arrays are copied where the session is on a GPU."""
        import onnxruntime

        binding = self._session.io_binding()
        for spec, array in zip(self._signature.inputs, inputs, strict=True):
            if self._stream is None or (spec.dtype == _BFLOAT16 and isinstance(array, np.ndarray)):
                binding.bind_ortvalue_input(spec.name, _in_place(to_numpy(array)))
            elif isinstance(array, np.ndarray):
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device.kind, self._device.index)
                binding.bind_ortvalue_input(spec.name, value)
            else:
                shape = tuple(array.shape)
                dtype = _BFLOAT16_IN_ONNX if spec.dtype == _BFLOAT16 else np.dtype(spec.dtype)
                binding.bind_input(spec.name, self._device.kind, self._device.index, dtype, shape, array.data_ptr())
        return binding

    def _views(self, values: Sequence[Any], *, as_numpy: bool) -> list[Array]:
        return [self._view(value, spec, as_numpy) for value, spec in zip(values, self._signature.outputs, strict=True)]

    def _view(self, value: Any, spec: TensorSpec, as_numpy: bool) -> Array:
        """The memory of a runtime value, without a copy where it lies on the device of the answer."""
        if (as_numpy or self._stream is None) and spec.dtype != _BFLOAT16:
            array: np.ndarray[Any, Any] = value.numpy()
            return array if as_numpy else to_torch(array)
        import torch

        tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(value)
        if as_numpy:
            return to_numpy(tensor)
        return tensor.view(torch.bool) if spec.dtype == "bool" else tensor  # ONNX Runtime hands booleans over as bytes
