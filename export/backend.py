"""The contract of a backend, the list of them, and the driver that holds each of them to it.

A backend is a module in ``export/backends/`` with the attributes and functions of ``Backend``. It is imported when
first asked for, and is the only file that imports its runtime. Building and running are two steps: ``build`` leaves
files, ``load`` makes them callable. No backend measures time, and none checks its inputs: the driver (``Runner``) does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np

from export.arrays import Array, contiguous, device_name, is_numpy, layout, to_numpy, to_torch
from export.artifact import Artifact, open_artifact
from export.errors import ContractError, UserError
from export.signature import Signature

if TYPE_CHECKING:
    from torch import nn

    from export.contents import Contents

BACKENDS: dict[str, str] = {
    "eager": "export.backends.eager",
    "torchscript": "export.backends.torchscript",
    "exported": "export.backends.exported",
    "compile": "export.backends.compile",
    "aotinductor": "export.backends.aotinductor",
    "onnx": "export.backends.onnx",
    "onnx-legacy": "export.backends.onnx_legacy",
    "onnx-int8": "export.backends.onnx_int8",
    "openvino": "export.backends.openvino",
    "openvino-int8": "export.backends.openvino_int8",
}
"""Name to module, in the order of tables."""
STANDARD = ("eager", "torchscript", "exported", "compile", "aotinductor", "onnx")
"""Those that a recipe gets if it does not say."""
_KNOWN_CALLS = 256


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How an artifact is to be run; the same for parity, benchmarks and serving."""

    device: str = "cpu"
    threads_count: int = 1
    optimization: Literal["off", "basic", "extended", "all"] = "all"
    """How far ONNX Runtime rewrites the graph when it loads it."""
    spinning: bool = False
    """Whether idle ONNX Runtime threads spin. Off wherever several runtimes share a process."""
    cuda_graph: bool = False
    """Whether a bound call of ONNX Runtime on CUDA is captured once, and replayed from then on."""


@dataclass(frozen=True, kw_only=True)
class BuildInput:
    """What a build may use."""

    signature: Signature
    seed: int
    device: str
    program_file: Path
    """The traced program, verified."""
    module: Callable[[], nn.Module]
    """Builds the user's own module with its trained weights, on the CPU, in eval mode."""
    calibration: Path | None = None
    """Training rows by input name, as safetensors; None where the recipe has no data."""


@dataclass(frozen=True, kw_only=True)
class Witness:
    """Evidence of what really executed."""

    device: str
    evidence: dict[str, str] = field(default_factory=dict)
    """Findings by name: nodes per execution provider, objects compiled at load, ..."""
    fallback: str | None = None
    """What ran elsewhere or otherwise than asked; None is the only good value."""


Threads = Literal["process", "session", "build"]
"""``process``: torch's setting, read at every call; ``session``: fixed when loaded; ``build``: fixed when built."""


class Loaded(Protocol):
    """What ``Backend.load`` returns: flat, positional, unchecked."""

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Outputs in the signature's order, in fresh memory, of the kind (NumPy or torch) that the inputs are."""
        ...

    def bind(self, inputs: Sequence[Array]) -> Callable[[], Sequence[Array]]:
        """A call that reads these very buffers each time, and may reuse its outputs."""
        ...

    def witness(self) -> Witness:
        """What really executed up to now."""
        ...


class Backend(Protocol):
    """The attributes and functions of a module in ``export/backends/``."""

    SOURCE_FREE: bool
    DEVICE_BOUND: bool
    """Whether an artifact runs only on the device it was built for."""
    NEEDS_PROGRAM: bool
    """Whether the build reads the traced program (else the user's module)."""
    PACKAGES: tuple[str, ...]
    """Distributions whose versions shape the artifact."""
    MODULES: tuple[str, ...]
    """What a process imports before it can load an artifact; how long that takes is part of a cold start."""
    THREADS: Threads
    """Where the number of threads is decided."""

    def unavailable(self, device: str) -> str | None:
        """Why this backend cannot build and run here, with the remedy; None if it can."""
        ...

    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """Write the artifact's files into ``folder``; returns facts about how. Raises what its exporter raises."""
        ...

    def contents(self, artifact: Artifact, folder: Path) -> Contents | None:
        """The weights and settings that the files (verified) hold, without running them; None if it keeps none."""
        ...

    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """Make the files, which the driver has verified, callable. Only ``eager`` may use ``module``."""
        ...


@dataclass(frozen=True)
class Bound:
    """A call that was checked once, when it was bound: the fast path of benchmarks and servers.

    Bind ordinary tensors, not ones made in inference mode. ``run()`` computes from the current content of ``inputs``;
    its outputs are overwritten by the next ``run()``. For torch-based backends call it in ``torch.inference_mode()``.
    """

    inputs: dict[str, Array]
    run: Callable[[], Sequence[Array]]


class Runner:
    """A loaded artifact held to its signature.

    Looking a call up among those already checked costs a fraction of a microsecond, checking it anew ten times that:
    what was found of shapes, dtypes, devices and memory order is therefore remembered.
    """

    def __init__(self, artifact: Artifact, loaded: Loaded, options: LoadOptions) -> None:
        self.artifact = artifact
        self.signature = artifact.signature
        self.options = options
        self._loaded = loaded
        self._names = tuple(spec.name for spec in self.signature.inputs)
        self._output_names = self.signature.output_names
        self._known: dict[Hashable, list[Hashable]] = {}
        self._last: tuple[list[Hashable], list[Hashable] | None] = ([], None)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named inputs to named outputs in fresh memory, of the kind (NumPy or torch) that the inputs are.

        Raises:
            ContractError: inputs or outputs that break the signature.
        """
        try:
            arrays = [inputs[name] for name in self._names]
            facts = [layout(array) for array in arrays]
        except (KeyError, AttributeError):
            return self._call_checked(inputs)  # which says what is wrong
        known = self._last
        if facts != known[0]:  # to compare with the last call costs less than to look it up
            known = self._last = (facts, self._known.get(tuple(facts)))
        if known[1] is not None and len(inputs) == len(arrays):
            outputs = self._loaded(arrays)
            if [(output.shape, output.dtype) for output in outputs] == known[1]:
                return dict(zip(self._output_names, outputs))  # noqa: B905 - as many as were checked
        return self._call_checked(inputs)

    def bind(self, inputs: Mapping[str, Array]) -> Bound:
        """Check once, then call many times with the same buffers.

        Raises:
            ContractError: inputs or outputs that break the signature.
        """
        arrays, sizes = self._checked(inputs)
        run = self._loaded.bind(arrays)
        self.signature.check_outputs(run(), sizes)
        return Bound(inputs=dict(zip(self._names, arrays, strict=True)), run=run)

    def witness(self) -> Witness:
        """Evidence of what really executed up to now."""
        return self._loaded.witness()

    def _call_checked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        arrays, sizes = self._checked(inputs)
        outputs = self._loaded(arrays)
        self.signature.check_outputs(outputs, sizes)
        if all(array is inputs[name] for name, array in zip(self._names, arrays, strict=True)):  # none was copied
            if len(self._known) >= _KNOWN_CALLS:
                self._known.clear()
            self._known[tuple(layout(array) for array in arrays)] = [(output.shape, output.dtype) for output in outputs]
            self._last = ([], None)
        return dict(zip(self._output_names, outputs, strict=True))

    def _checked(self, inputs: Mapping[str, Array]) -> tuple[list[Array], dict[str, int]]:
        sizes = self.signature.check_inputs(inputs)
        arrays = [contiguous(inputs[name]) for name in self._names]
        for name, array in zip(self._names, arrays, strict=True):
            if not is_numpy(array) and device_name(array) != self.options.device:
                raise ContractError(f"{name} must lie on {self.options.device}, got {device_name(array)}")
        return arrays, sizes


class TorchLoaded:
    """``Loaded`` around a callable on flat torch tensors; four of the backends are one."""

    def __init__(
        self,
        call: Callable[..., Sequence[Array]],
        options: LoadOptions,
        witness: Callable[[], Witness] | None = None,
    ) -> None:
        import torch

        torch.set_num_threads(options.threads_count)
        if options.device == "cuda":  # strict float32; convolutions would use TF32 otherwise
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self._call = call
        self._device = options.device
        self._witness = witness
        self._inference_mode = torch.inference_mode
        self._is_inference_mode = torch.is_inference_mode_enabled

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """One call in inference mode; NumPy inputs are moved to the device, and the outputs back."""
        for array in inputs:
            if isinstance(array, np.ndarray):
                return self._from_host(inputs)
        if self._is_inference_mode():
            return self._call(*inputs)
        with self._inference_mode():
            return self._call(*inputs)

    def _from_host(self, inputs: Sequence[Array]) -> Sequence[Array]:
        with self._inference_mode():
            outputs = self._call(*[to_torch(array, self._device) for array in inputs])
        return [to_numpy(output) for output in outputs] if is_numpy(inputs[0]) else outputs

    def bind(self, inputs: Sequence[Array]) -> Callable[[], Sequence[Array]]:
        """The call itself on these tensors; run it inside ``torch.inference_mode()``."""
        tensors = [to_torch(array, self._device) for array in inputs]
        call = self._call
        return lambda: call(*tensors)

    def witness(self) -> Witness:
        """The device asked for (torch raises rather than move a computation elsewhere), how float32 is multiplied."""
        import torch

        found = self._witness() if self._witness else Witness(device=self._device)
        products = torch.get_float32_matmul_precision()  # highest: no TF32, no bfloat16
        return replace(found, evidence={"float32_products": products, **found.evidence})


def get(name: str) -> Backend:
    """Import one backend.

    Raises:
        UserError: an unknown name.
    """
    if name not in BACKENDS:
        raise UserError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return cast(Backend, importlib.import_module(BACKENDS[name]))


def artifact_name(backend: str, device: str) -> str:
    """The folder's name of an artifact."""
    return f"{backend}-{device}" if device != "cpu" and get(backend).DEVICE_BOUND else backend


def load(folder: Path, options: LoadOptions, module: Callable[[], nn.Module] | None = None) -> Runner:
    """Verify an artifact's files, then make it callable.

    ``module`` builds the user's module where that is allowed; source-free backends never call it.

    Raises:
        RecordError: a file is missing or altered: nothing of it was loaded.
    """
    artifact = open_artifact(folder)
    loaded = get(artifact.backend).load(artifact, folder, options, module or _no_module)
    return Runner(artifact, loaded, options)


def _no_module() -> nn.Module:
    raise UserError("this artifact needs the model's source, which this process was not given")
