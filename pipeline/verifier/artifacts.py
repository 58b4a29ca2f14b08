"""The artifacts of a bundle as something to call: ONNX with numpy and onnxruntime alone, others through Torchstone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.verifier.outcome import Unable


class OnnxArtifact:
    """The shipped ONNX file in ONNX Runtime, with the settings that it was proved with."""

    def __init__(self, folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise Unable(f"{error}: pip install onnxruntime (or onnxruntime-gpu)") from None
        self._runtime, self._shipped = onnxruntime, shipped
        self._file = str(folder / shipped["file"])
        self._outputs = [one["name"] for one in bundle["signature"]["outputs"]]
        self.session = None

    def load(self) -> None:
        """Open the session."""
        self.session = self.open(self._file)

    def open(self, file: str) -> Any:
        """A session with the artifact's own settings."""
        options, runtime = self._shipped["options"], self._runtime
        levels = runtime.GraphOptimizationLevel
        settings = runtime.SessionOptions()
        settings.graph_optimization_level = {
            "off": levels.ORT_DISABLE_ALL, "basic": levels.ORT_ENABLE_BASIC,
            "extended": levels.ORT_ENABLE_EXTENDED, "all": levels.ORT_ENABLE_ALL,
        }[options["optimization"]]  # fmt: skip
        settings.intra_op_num_threads = options["threads_count"]
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options["spinning"])))
        providers: list[Any] = ["CPUExecutionProvider"]
        if options["device"] != "cpu":
            runtime.preload_dlls()  # CUDA's libraries, from the packages that hold them
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            providers = [("CUDAExecutionProvider", {"use_tf32": 0, "device_id": 0})]
        return runtime.InferenceSession(file, settings, providers=providers, enable_fallback=0)

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One call."""
        return dict(zip(self._outputs, self.session.run(self._outputs, dict(inputs))))  # type: ignore[attr-defined]

    def bind(self, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A call on memory that is bound once."""
        return bind_session(self.session, self._runtime, inputs, self._outputs, self._shipped["options"]["device"])


def bind_session(
    session: Any, runtime: Any, inputs: Mapping[str, Any], outputs: Sequence[str], device: str
) -> Callable[[], Any]:
    """ONNX Runtime's call on inputs and outputs bound once."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, runtime.OrtValue.ortvalue_from_numpy(array, device, 0))
    for name in outputs:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    for name, value in zip(outputs, binding.get_outputs()):
        binding.bind_ortvalue_output(name, value)
    return lambda: session.run_with_iobinding(binding)


def bind_workload(np: Any, file: Path) -> Callable[[], Any] | None:
    """A small fixed computation that travels along, on one thread: how long it takes tells machines apart."""
    try:
        import onnxruntime
    except ImportError:
        return None
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    inputs = {one.name: np.full(one.shape, 0.5, "f4") for one in session.get_inputs()}
    return bind_session(session, onnxruntime, inputs, [one.name for one in session.get_outputs()], "cpu")


class TorchstoneArtifact:
    """Any other artifact, by the very code that proved it."""

    def __init__(self, folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any]) -> None:
        try:
            from export import backend
            from export.backend import LoadOptions
        except ImportError as error:
            raise Unable(f"the artifact {shipped['name']} needs Torchstone: {error}") from None
        self._load: Callable[[], Any] = lambda: backend.load(
            folder / "artifacts" / shipped["name"], LoadOptions(**shipped["options"])
        )
        self.runner: Any = None

    def load(self) -> None:
        """Hashes again, then the files."""
        self.runner = self._load()

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One call, NumPy in and out."""
        answer: dict[str, Any] = self.runner(dict(inputs))
        return answer

    def bind(self, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A call on tensors that are bound once."""
        import torch

        guard: Any = torch.inference_mode()
        guard.__enter__()  # for the rest of this process
        bound: Callable[[], Any] = self.runner.bind(dict(inputs)).run
        return bound
