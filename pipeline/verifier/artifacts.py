"""The artifacts of a bundle as something to call: ONNX with numpy and onnxruntime alone, others through Torchstone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.verifier.location import ARCHIVE, installation
from pipeline.verifier.outcome import Unable
from pipeline.verifier.upgrade import nested_options, runtime_option


class OnnxArtifact:
    """The shipped ONNX file in ONNX Runtime, with the settings that it passed parity with."""

    def __init__(self, folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise Unable(f"{error}: {installation('onnxruntime')} (or onnxruntime-gpu)") from None
        self._runtime, self._options = onnxruntime, shipped["options"]
        self._file = str(folder / shipped["file"])
        self._outputs = [output["name"] for output in bundle["signature"]["outputs"]]
        self.session: Any = None

    def load(self) -> None:
        """Open the session."""
        options, runtime = self._options, self._runtime
        levels = runtime.GraphOptimizationLevel
        settings = runtime.SessionOptions()
        settings.graph_optimization_level = {
            "off": levels.ORT_DISABLE_ALL, "basic": levels.ORT_ENABLE_BASIC,
            "extended": levels.ORT_ENABLE_EXTENDED, "all": levels.ORT_ENABLE_ALL,
        }[runtime_option(options, "optimization")]  # fmt: skip
        settings.intra_op_num_threads = options["threads_count"]
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        spinning = str(int(runtime_option(options, "spinning")))
        settings.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        providers: list[Any] = ["CPUExecutionProvider"]
        kind, index = _device(options)
        if kind != "cpu":
            runtime.preload_dlls()  # CUDA's libraries, from the packages that hold them
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            providers = [("CUDAExecutionProvider", {"use_tf32": 0, "device_id": index})]
        self.session = runtime.InferenceSession(self._file, settings, providers=providers, enable_fallback=0)

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One call."""
        return dict(zip(self._outputs, self.session.run(self._outputs, dict(inputs))))

    def bind(self, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A call on memory that is bound once."""
        return _bind_session(self.session, self._runtime, inputs, self._outputs, _device(self._options))


class TorchstoneArtifact:
    """Any other artifact, by the very code that passed parity."""

    def __init__(self, folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any]) -> None:
        try:
            from export import registry
            from export.backend import LoadOptions
        except ImportError as error:
            raise Unable(_without_torchstone(shipped["name"], error)) from None
        known = {field.name for field in dataclasses.fields(LoadOptions)}
        options = nested_options(shipped["options"]) if "runtime" in known else shipped["options"]
        place = folder / "artifacts" / shipped["name"]
        self._load: Callable[[], Any] = lambda: registry.load(place, LoadOptions(**options))
        self.runner: Any = None

    def load(self) -> None:
        """Hashes again, then the files."""
        self.runner = self._load()

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One call, NumPy in and out."""
        outputs: dict[str, Any] = self.runner(dict(inputs))
        return outputs

    def bind(self, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A call on tensors that are bound once."""
        import torch

        guard: Any = torch.inference_mode()
        guard.__enter__()  # for the rest of this process
        bound: Callable[[], Any] = self.runner.bind(dict(inputs)).run
        return bound


def bind_workload(np: Any, file: Path) -> Callable[[], Any] | None:
    """The reference workload on one thread; None where there is no ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    inputs = {tensor.name: np.full(tensor.shape, 0.5, "f4") for tensor in session.get_inputs()}
    outputs = [tensor.name for tensor in session.get_outputs()]
    return _bind_session(session, onnxruntime, inputs, outputs, ("cpu", 0))


def _bind_session(
    session: Any, runtime: Any, inputs: Mapping[str, Any], outputs: Sequence[str], device: tuple[str, int]
) -> Callable[[], Any]:
    """ONNX Runtime's call on inputs and outputs bound once."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, runtime.OrtValue.ortvalue_from_numpy(array, *device))
    for name in outputs:
        binding.bind_output(name, *device)
    session.run_with_iobinding(binding)
    for name, value in zip(outputs, binding.get_outputs()):
        binding.bind_ortvalue_output(name, value)
    return lambda: session.run_with_iobinding(binding)


def _device(options: Mapping[str, Any]) -> tuple[str, int]:
    """Kind and index of ``cpu``, ``cuda`` or ``cuda:1``."""
    kind, _, index = options["device"].partition(":")
    return kind, int(index or 0)


def _without_torchstone(name: str, error: ImportError) -> str:
    if ARCHIVE is None:
        return f"the artifact {name} needs Torchstone: {error}"
    return (
        f"the artifact {name} needs Torchstone installed in this Python ({error}); "
        f"{ARCHIVE.name} does not look at PYTHONPATH, python -m pipeline.verify {ARCHIVE.parent} does"
    )
