"""The contract of a backend, and the driver that holds each of them to it.

A backend is an instance of a subclass of ``Backend`` in ``export/backends/`` (or of a plug-in, see
``export/registry.py``): its attributes are the facts about it that other parts need, its methods build and load.
Building and running are two steps: ``build`` leaves files, ``load`` makes them callable. No backend measures time, and
none checks its inputs: the driver (``Runner``) does.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from export.arrays import Array, contiguous, is_numpy, layout
from export.artifact import Artifact
from export.device import device
from export.errors import ContractError, UserError
from export.record import from_json

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.contents import Contents
    from export.foreign.format import ForeignFormat
    from export.signature import Signature
    from export.taps import Taps
    from export.taps.trace import Trace

_KNOWN_CALLS = 256
RuntimeValue = str | bool | int | float


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How an artifact is to be run; the same for parity, benchmarks and serving."""

    device: str = "cpu"
    """A device's name, see export/device.py."""
    threads_count: int = 1
    runtime: dict[str, RuntimeValue] = field(default_factory=dict)
    """What only its runtime knows, where it differs from the default: see ``Backend.runtime_options``."""

    def __hash__(self) -> int:
        return hash((self.device, self.threads_count, json.dumps(self.runtime, sort_keys=True)))

    @property
    def summary(self) -> str:
        """``2 threads, optimization extended, spinning``."""
        more = [name if value is True else f"{name} {value}" for name, value in sorted(self.runtime.items())]
        threads = f"{self.threads_count} thread{'' if self.threads_count == 1 else 's'}"
        return ", ".join([threads, *(option.replace("_", " ") for option in more)])


@dataclass(frozen=True, kw_only=True)
class NoRuntimeOptions:
    """A runtime that has nothing to choose."""


@dataclass(frozen=True, kw_only=True)
class BuildInput:
    """What a build may use."""

    signature: Signature
    seed: int
    device: str
    program_file: Path
    """The traced program, verified."""
    program_failure: str | None
    """Why there is no program; None where there is one."""
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


@dataclass(frozen=True, kw_only=True)
class Backend(ABC):
    """One way to run a model: what was exported how, at which precision, on which runtime."""

    name: str
    """What its rows and artifacts are called: ``onnx-int8``."""
    exporter: str
    """How its files are made: ``dynamo``, ``script``, ``inductor``; ``none`` where there are none."""
    runtime: str = "torch"
    """The distribution that runs its files where they are served: ``torch``, ``onnxruntime``, ``openvino``."""
    precision: str | None = None
    """The precision that the build brings about; None: the program's own."""
    file: str | None = None
    """The file that is loaded, where others lie beside it; None where there is none."""
    packages: tuple[str, ...] = ("torch",)
    """Distributions whose versions shape the artifact."""
    modules: tuple[str, ...] = ("torch",)
    """What a process imports before it can load an artifact; how long that takes is part of a cold start."""
    source_free: bool = True
    """Whether it runs where the model's source cannot be imported; only such artifacts ship."""
    device_bound: bool = False
    """Whether an artifact runs only on the kind of device, and of machine, that it was built for."""
    needs_program: bool = True
    """Whether the build reads the traced program (else the user's module)."""
    other_roads: bool = False
    """Whether it can also build from the module, where the program could not be traced."""
    calibrated: bool = False
    """Whether the build takes ranges from training rows."""
    threads: Threads = "process"
    """Where the number of threads is decided."""
    build_cost: int = 1
    """About how long a build takes, in any unit: the longest start first."""
    deployment_rank: int = 100
    """Among equally fast artifacts the one with the lowest rank ships: it needs the least where it is served."""
    compiler: Literal["onnxruntime", "inductor"] | None = None
    """What rewrites or compiles the graph between the file and its execution: where ``locate`` looks for a fault."""
    serving_form: Literal["onnx", "torch_aoti"] | None = None
    """What servers take it as; None where no server of those in ``pipeline/bundle/forms`` does."""
    nonfinite_notes: tuple[tuple[str, str], ...] = ()
    """What the runtime is known to do with NaN and Inf: part of an operator's name, and a sentence."""
    foreign: ForeignFormat | None = None
    """How a file that another tool made is taken in; None where none is."""
    options: type = NoRuntimeOptions
    """The dataclass of what ``LoadOptions.runtime`` may hold, with its defaults."""

    def unavailable(self, where: str) -> str | None:
        """Why this backend cannot build and run on a device, with the remedy; None if it can."""
        return None

    @abstractmethod
    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """Write the artifact's files into ``folder``; returns facts about how. Raises what its exporter raises."""

    @abstractmethod
    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """Make the files, which the driver has verified, callable. Only ``eager`` may use ``module``."""

    def contents(self, artifact: Artifact, folder: Path) -> Contents | None:
        """The weights and settings that the files (verified) hold, without running them; None if it keeps none."""
        return None

    def needs(self, artifact: Artifact, folder: Path) -> dict[str, str]:
        """What the files need where they are served: versions (``>=`` or ``==``) by distribution, and other facts."""
        from export.environment import version

        installed = version(self.runtime)
        return {self.runtime: f">={installed.partition('+')[0].partition('-')[0]}"} if installed else {}

    def settings(self, before: LoadOptions, cores_count: int) -> list[LoadOptions]:
        """Other settings that may be faster on ``cores_count`` cores: numbers of threads, unless they are built in."""
        if self.threads == "build":
            return []
        counts = sorted({1, *(1 << power for power in range(1, cores_count.bit_length())), cores_count})
        return [
            replace(before, threads_count=count)
            for count in counts
            if count <= cores_count and count != before.threads_count
        ]

    def spins(self, options: LoadOptions) -> bool:
        """Whether idle threads of the runtime go on spinning after a call, and so disturb whoever runs next."""
        return False

    def trace(self, exported: torch.export.ExportedProgram) -> Trace:
        """The traced program, its values named as the artifact's files name them."""
        from export.taps.trace import Trace

        return Trace(exported)

    def taps(self, folder: Path, trace: Trace, options: LoadOptions) -> Taps | None:
        """The inside of an artifact, value by value; None where it cannot be looked into."""
        return None

    def runtime_options(self, options: LoadOptions) -> Any:
        """``options.runtime`` as this backend's own typed options.

        Raises:
            UserError: an option that this backend's runtime does not have, or of another type.
        """
        known = {option.name for option in fields(self.options)}
        if unknown := sorted(options.runtime.keys() - known):
            raise UserError(
                f"{self.name} has no runtime option {unknown[0]!r}, it has {', '.join(sorted(known)) or 'none'}"
            )
        return from_json(self.options, options.runtime, f"the runtime options of {self.name}")

    def with_runtime(self, options: LoadOptions, chosen: Any) -> LoadOptions:
        """``options`` with the typed ones, of which those that differ from the default are written down."""
        default = asdict(self.options())
        return replace(
            options, runtime={name: value for name, value in asdict(chosen).items() if value != default[name]}
        )

    def artifact_name(self, where: str) -> str:
        """The name of this backend's artifact for a device; the kind of device is named where it is bound to it."""
        kind = device(where).kind
        return f"{self.name}-{kind}" if self.device_bound and kind != "cpu" else self.name


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
        self.device = device(options.device)
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
            layouts = [layout(array) for array in arrays]
        except (KeyError, AttributeError):
            return self._call_checked(inputs)  # which says what is wrong
        known = self._last
        if layouts != known[0]:  # to compare with the last call costs less than to look it up
            known = self._last = (layouts, self._known.get(tuple(layouts)))
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
            if not is_numpy(array) and not self.device.holds(array):  # type: ignore[arg-type]
                raise ContractError(f"{name} must lie on {self.options.device}, got {array.device}")
        return arrays, sizes
