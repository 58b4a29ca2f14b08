"""ONNX through PyTorch's dynamo exporter, run on ONNX Runtime: the only file that touches either.

Loading and running need numpy and onnxruntime alone; torch is imported only where torch tensors are passed in.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.arrays import Array, is_numpy, to_numpy, to_torch
from export.backend import Witness
from export.environment import versions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.artifact import Artifact
    from export.backend import BuildInput, Loaded, LoadOptions, Threads
    from export.contents import Contents
    from export.signature import TensorSpec

SOURCE_FREE = True
DEVICE_BOUND = False
NEEDS_PROGRAM = True
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")
MODULES = ("onnxruntime",)
THREADS: Threads = "session"
FILE = "model.onnx"
_ONE_FILE_BYTES = 2 * 1024**3 - 64 * 1024**2
"""Protobuf ends at 2 GiB; what the graph needs besides its weights stays far below the margin."""
_PROVIDERS: dict[str, list[Any]] = {
    "cpu": ["CPUExecutionProvider"],
    # Without the CPU in the list, and with the fallback disabled below, a node that CUDA cannot run is an error.
    "cuda": [("CUDAExecutionProvider", {"use_tf32": 0, "device_id": 0})],
}


def unavailable(device: str) -> str | None:
    """Whether an ONNX Runtime is installed, and has the device's provider."""
    if not any(name.startswith("onnxruntime") for name in versions()):
        return "onnxruntime is not installed: pip install onnxruntime-gpu (or onnxruntime where it has no wheel)"
    if device == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "this onnxruntime has no CUDAExecutionProvider: pip install onnxruntime-gpu"
    return None


def build(source: BuildInput, folder: Path) -> dict[str, str]:
    """Export the program with the signature's names, check the file with ONNX's own checker."""
    import onnx
    import torch

    from export.program import load_exported, quiet, symbol_names

    program = load_exported(source.program_file)
    weights_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    with quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=[spec.name for spec in source.signature.inputs],
            output_names=list(source.signature.output_names),
            verbose=False,
        )
    assert exported is not None
    _yield_names(exported.model, {spec.name for spec in (*source.signature.inputs, *source.signature.outputs)})
    exported.save(str(folder / FILE), external_data=weights_bytes > _ONE_FILE_BYTES)
    model = onnx.load(str(folder / FILE), load_external_data=False)
    _name_dimensions(model, symbol_names(program, source.signature))
    _forget_paths(model)
    onnx.save(model, str(folder / FILE))
    onnx.checker.check_model(str(folder / FILE), full_check=True)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    return {
        "form": "ONNX, dynamo exporter",
        "opset": str(opset),
        "ir_version": str(model.ir_version),
        "nodes": str(len(model.graph.node)),
        "checker": "onnx.checker passed, with full shape inference",
    }


def contents(artifact: Artifact, folder: Path) -> Contents | None:
    """Initializers and constants by name, and the watched settings of nodes whose module the exporter recorded."""
    from export.onnx_file import read_contents

    return read_contents(folder / FILE)


def load(artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
    """A session on the file; on CUDA a node that would run on the CPU is an error."""
    return _Session(open_session(str(folder / FILE), options), artifact, options.device)


def open_session(model: str | bytes, options: LoadOptions, disabled_optimizers: Sequence[str] = ()) -> Any:
    """ONNX Runtime on a file, or on a serialized model, with the settings that every use of an artifact shares."""
    if options.device == "cuda":
        import torch  # noqa: F401 - brings the CUDA libraries that the provider is linked against
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = {
        "off": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[options.optimization]
    settings.intra_op_num_threads = options.threads_count
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if options.device != "cpu":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return onnxruntime.InferenceSession(
        model,
        settings,
        providers=_PROVIDERS[options.device],
        enable_fallback=0,
        disabled_optimizers=list(disabled_optimizers) or None,
    )


def lowered(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A traced program lowered as the exporter does it, so that its nodes bear the names of the file's values.

    The exporter's own lowering is private to PyTorch; where it is not found as known here, the public one is used,
    which agrees on fewer names.
    """
    try:
        from torch.onnx._internal.exporter._fx_passes import decompose_with_registry
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        public: torch.export.ExportedProgram = exported.run_decompositions()
        return public
    import logging

    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    lower: Callable[..., torch.export.ExportedProgram] = decompose_with_registry
    return lower(exported, ONNXRegistry.from_torchlib())


class _Session:
    """``Loaded`` around an ONNX Runtime session."""

    def __init__(self, session: Any, artifact: Artifact, device: str) -> None:
        self._session = session
        self._device = device
        self._signature = artifact.signature
        self._inputs = [spec.name for spec in artifact.signature.inputs]
        self._outputs = [spec.name for spec in artifact.signature.outputs]

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """One run with outputs that ONNX Runtime allocates, where the inputs lie."""
        as_numpy = is_numpy(inputs[0])
        if as_numpy or self._device == "cpu":
            fed = dict(zip(self._inputs, inputs if as_numpy else map(to_numpy, inputs), strict=True))
            outputs: list[Array] = self._session.run(self._outputs, fed)
            return outputs if as_numpy else [to_torch(output) for output in outputs]
        import torch

        torch.cuda.current_stream().synchronize()  # ONNX Runtime has a stream of its own
        binding = self._run_bound(inputs)
        binding.synchronize_outputs()
        return self._views(binding.get_outputs(), as_numpy=False)

    def bind(self, inputs: Sequence[Array]) -> Callable[[], Sequence[Array]]:
        """Inputs and outputs bound once to fixed memory, which ONNX Runtime then reads and writes in place."""
        binding = self._run_bound(inputs)
        results = binding.get_outputs()
        for name, value in zip(self._outputs, results, strict=True):
            binding.bind_ortvalue_output(name, value)
        arrays = self._views(results, as_numpy=is_numpy(inputs[0]))
        run = self._session.run_with_iobinding

        def call() -> Sequence[Array]:
            run(binding)
            return arrays

        return call

    def witness(self) -> Witness:
        """Nodes per execution provider, as the runtime assigned them."""
        nodes: Counter[str] = Counter()
        for subgraph in self._session.get_provider_graph_assignment_info():
            nodes[subgraph.ep_name] += len(subgraph.get_nodes())
        wanted = "CUDAExecutionProvider" if self._device == "cuda" else "CPUExecutionProvider"
        strangers = {provider: count for provider, count in nodes.items() if provider != wanted}
        return Witness(
            device=self._device,
            evidence={f"nodes_on_{provider}": str(count) for provider, count in sorted(nodes.items())},
            fallback=f"{strangers} nodes ran elsewhere than on {wanted}" if strangers else None,
        )

    def _run_bound(self, inputs: Sequence[Array]) -> Any:
        """A binding to ``inputs`` that has run once, into outputs that ONNX Runtime allocated on the device."""
        binding = self._binding(inputs)
        for name in self._outputs:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        return binding

    def _binding(self, inputs: Sequence[Array]) -> Any:
        """A binding that reads the very memory of ``inputs``; NumPy arrays are copied where the session is on a GPU."""
        import onnxruntime

        binding = self._session.io_binding()
        for spec, array in zip(self._signature.inputs, inputs, strict=True):
            if self._device == "cpu":
                binding.bind_ortvalue_input(spec.name, onnxruntime.OrtValue.ortvalue_from_numpy(to_numpy(array)))
            elif isinstance(array, np.ndarray):
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device, 0)
                binding.bind_ortvalue_input(spec.name, value)
            else:
                dtype, shape = np.dtype(spec.dtype), tuple(array.shape)
                binding.bind_input(spec.name, self._device, 0, dtype, shape, array.data_ptr())
        return binding

    def _views(self, values: Sequence[Any], *, as_numpy: bool) -> list[Array]:
        return [self._view(value, spec, as_numpy) for value, spec in zip(values, self._signature.outputs, strict=True)]

    def _view(self, value: Any, spec: TensorSpec, as_numpy: bool) -> Array:
        """The memory of a runtime value, without a copy where it lies on the device of the answer."""
        if as_numpy or self._device == "cpu":
            array: np.ndarray[Any, Any] = value.numpy()
            return array if as_numpy else to_torch(array)
        import torch

        tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(value)
        return tensor.view(torch.bool) if spec.dtype == "bool" else tensor  # ONNX Runtime hands booleans over as bytes


def _yield_names(model: Any, taken: set[str]) -> None:
    """Rename inner values that bear the name of an input or output: the exporter lets both stand, ONNX does not."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name in taken and not value.is_graph_output():
                value.name = f"{value.name}__inner"


def _name_dimensions(model: Any, symbols: Mapping[str, str]) -> None:
    """Spell the exporter's symbols (``s77``) as the signature does (``batch``), everywhere in the graph."""
    from export.program import rename

    graph = model.graph
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = rename(dimension.dim_param, symbols)


def _forget_paths(model: Any) -> None:
    """Make the source paths in the nodes' stack traces relative: the build machine stays private.

    The whole traces remain in ``program/``, for locating a fault.
    """
    site_packages = re.escape(sysconfig.get_paths()["purelib"])
    for node in model.graph.node:
        for entry in node.metadata_props:
            entry.value = re.sub(rf'"{site_packages}/', '"', entry.value)
            entry.value = re.sub(r'"/(?:[^"/]+/)*([^"/]+)"', r'"\1"', entry.value)
