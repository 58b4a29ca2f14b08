"""The artifacts of a bundle as something to call: ONNX with numpy and onnxruntime alone, others through Torchstone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.verifier.gpu import (
    captures,
    check_opened,
    device_of,
    elsewhere_count,
    graph_options,
    on_gpu,
    provider,
)
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
        self._graphs = itertools.count(1)  # the runtime itself gives 0 to calls that name none
        self.session: Any = None

    def load(self) -> None:
        """Open the session.

        Raises:
            Refused: it is for a GPU, and the runtime would run it on the CPU.
        """
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
        if on_gpu(options):
            if hasattr(runtime, "preload_dlls"):  # from 1.21 on
                runtime.preload_dlls()  # CUDA's libraries, from the packages that hold them
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            providers = [provider(options)]
        self.session = runtime.InferenceSession(self._file, settings, providers=providers, enable_fallback=0)
        if on_gpu(options):
            check_opened(runtime, self.session, options)

    @property
    def elsewhere_count(self) -> int | None:
        """Nodes that run elsewhere than on the GPU that the artifact is for; None for the CPU."""
        return elsewhere_count(self.session) if on_gpu(self._options) else None

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One call."""
        run_options = graph_options(self._runtime) if captures(self._options) else None
        return dict(zip(self._outputs, self.session.run(self._outputs, dict(inputs), run_options)))

    def bind(self, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A call on memory that is bound once; the runtime returns when the GPU is done."""
        runtime, session, options = self._runtime, self.session, self._options
        if not captures(options):
            return _bound(session, _binding(session, runtime, inputs, self._outputs, device_of(options)))
        uncaptured, captured = graph_options(runtime), graph_options(runtime, str(next(self._graphs)))
        return _bound(
            session, _binding(session, runtime, inputs, self._outputs, device_of(options), uncaptured), captured
        )


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
        self._options = shipped["options"]
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
        """A call on tensors that are bound once, to its end: on a GPU torch only queues the work and returns."""
        import torch

        guard: Any = torch.inference_mode()
        guard.__enter__()  # for the rest of this process
        run: Callable[[], Any] = self.runner.bind(dict(inputs)).run
        return _waited(run, self.runner.device.synchroniser()) if on_gpu(self._options) else run


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
    return _bound(session, _binding(session, onnxruntime, inputs, outputs, ("cpu", 0)))


def _binding(
    session: Any,
    runtime: Any,
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    device: tuple[str, int],
    run_options: Any = None,
) -> Any:
    """Inputs and outputs bound once: it has run once, into outputs that ONNX Runtime allocated on the device."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, runtime.OrtValue.ortvalue_from_numpy(array, *device))
    for name in outputs:
        binding.bind_output(name, *device)
    session.run_with_iobinding(binding, run_options)
    for name, value in zip(outputs, binding.get_outputs()):
        binding.bind_ortvalue_output(name, value)
    return binding


def _bound(session: Any, binding: Any, run_options: Any = None) -> Callable[[], Any]:
    """ONNX Runtime's call on what is bound."""
    return lambda: session.run_with_iobinding(binding, run_options)


def _waited(run: Callable[[], Any], wait: Callable[[], None]) -> Callable[[], Any]:
    """A call that returns when the device is done with it."""

    def call() -> Any:
        outputs = run()
        wait()
        return outputs

    return call


def _without_torchstone(name: str, error: ImportError) -> str:
    if ARCHIVE is None:
        return f"the artifact {name} needs Torchstone: {error}"
    return (
        f"the artifact {name} needs Torchstone installed in this Python ({error}); "
        f"{ARCHIVE.name} does not look at PYTHONPATH, python -m pipeline.verify {ARCHIVE.parent} does"
    )
