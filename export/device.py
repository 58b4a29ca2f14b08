"""Devices by name (``cpu``, ``cuda``, ``cuda:1``), and everything that differs between them.

What another file needs of a device it asks of ``device(name)``: moving tensors, waiting, timing on the device's own
clock, memory, how float32 is multiplied, random generators. Adding a kind of device is one class and one line of
``DEVICES``; tests add one that computes on the CPU and keeps account of what it was asked.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from export.errors import UserError
from export.gpus import graph
from export.gpus.nvml import Board, board

if TYPE_CHECKING:
    import torch

_Result = TypeVar("_Result")
_NO_GRAPHS = "cuda_graph: {} has no CUDA graphs; leave the option out, or use --device cuda"
CHILD_ENVIRONMENT = {"NVIDIA_TF32_OVERRIDE": "0"}
"""What must stand in a process's environment before its first CUDA call: no library multiplies float32 as TF32."""
_NAME = re.compile(r"([a-z]+)(?::(\d+))?")
_OPERATORS = ("matmul", "conv", "rnn")
"""The operators that have a setting of their own."""
_STRICT = frozenset({"none", "ieee"})
_DETERMINISTIC_WORKSPACE = ":4096:8"
"""cuBLAS gives the same bits twice only with a workspace of fixed size."""


@dataclass(frozen=True)
class Device:
    """A device; this class is the CPU, whose every call has ended when it returns."""

    name: str
    """As the user spells it: ``cuda:1``."""
    index: int = 0

    kind: ClassVar[str] = "cpu"
    provider: ClassVar[str] = "CPUExecutionProvider"
    """ONNX Runtime's execution provider."""
    asynchronous: ClassVar[bool] = False
    """Whether a call may return before it has computed."""
    maker: ClassVar[str | None] = None
    """Whose device it is, as a bundle's needs name it; None where every machine has one."""

    @property
    def torch_name(self) -> str:
        """The name under which torch knows it: ``cpu``, ``cuda:0``."""
        return "cpu"

    def unavailable(self) -> str | None:
        """Why it cannot be used here, without the remedy; None if it can."""
        return None

    def missing_toolkit(self) -> str | None:
        """Why code that calls the device's own library cannot be compiled, with the remedy; None if it can."""
        return None

    def release(self) -> None:
        """Give back memory that torch holds for later: other processes share the device."""

    def enter_thread(self) -> None:
        """Make it the current device of a new thread, which inherits none."""

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies on it."""
        return tensor.is_cpu

    def move(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on this device; itself if it lies there."""
        return tensor.to(self.torch_name)

    def synchroniser(self) -> Callable[[], None]:
        """A function that returns when everything queued on the device is done."""
        return lambda: None

    def waiter(self) -> Callable[[], None]:
        """A function that returns when what the calling thread queued is done; others' work need not be."""
        return self.synchroniser()

    def timed_s(self, work: Callable[[], Any]) -> float | None:
        """Seconds that ``work`` took by the device's own clock, launches and waits left out; None where it has none."""
        return None

    def captured(self, call: Callable[[], _Result]) -> Callable[[], _Result]:
        """What ``call`` queues, recorded once and from then on replayed by one launch (export/gpus/graph.py).

        Raises:
            UserError: the device has no such graphs, or the call does what none can hold.
        """
        raise UserError(_NO_GRAPHS.format(self.name))

    def check_captures(self) -> None:
        """See that calls can be captured here.

        Raises:
            UserError: the device has no graphs.
        """
        if not self.asynchronous:
            raise UserError(_NO_GRAPHS.format(self.name))

    def board(self) -> Board | str | None:
        """What its driver tells of it, without a CUDA context; or why that is not known; None for the host."""
        return None

    def strict_float32(self) -> None:
        """Multiply float32 as float32 in this process: no TF32, no bfloat16 in between.

        Set at every level of PyTorch's settings, since one that is set below outlives one that is set above; and by the
        older flags first, since PyTorch raises where old and new disagree.
        """
        import torch

        backends: Any = torch.backends
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = False
        for part in (*self._products(), backends):
            part.fp32_precision = "ieee"

    def allow_tf32(self) -> None:
        """Multiply float32 as TF32 in this process, until ``strict_float32``.

        Raises:
            UserError: the device has no TF32.
        """
        raise UserError(f"tf32: {self.name} does not multiply so; leave float32, or use --device cuda")

    def float32_products(self) -> str:
        """How float32 is multiplied in this process: ``ieee``, or the narrower kinds that any operator is allowed."""
        return "+".join(sorted({part.fp32_precision for part in self._products()} - _STRICT)) or "ieee"

    def _products(self) -> list[Any]:
        """PyTorch's settings of how float32 is multiplied, one an operator."""
        import torch

        places = (
            (torch.backends.cuda, ("matmul",)),
            (torch.backends.cudnn, _OPERATORS),
            (torch.backends.mkldnn, _OPERATORS),
        )
        return [getattr(backend, name) for backend, names in places for name in names if hasattr(backend, name)]

    def new_stream(self) -> Any:
        """Where a runtime queues its work; None where calls do not return before they are done."""
        return None

    def current_stream(self) -> Any:
        """Where torch queues its work; None where it does not queue."""
        return None

    def prepare_deterministic(self) -> None:
        """What must be set before the first call for the same bits twice."""

    def random_state(self) -> torch.Tensor | None:
        """The state of the device's own random generator; None where torch's own is the only one."""
        return None

    def restore_random_state(self, state: torch.Tensor) -> None:
        """Take up a state that ``random_state`` gave."""


@dataclass(frozen=True)
class Cuda(Device):
    """An NVIDIA GPU by its number among those that are visible to the process."""

    kind: ClassVar[str] = "cuda"
    provider: ClassVar[str] = "CUDAExecutionProvider"
    asynchronous: ClassVar[bool] = True
    maker: ClassVar[str | None] = "nvidia"

    @property
    def torch_name(self) -> str:
        """``cuda:0``."""
        return f"cuda:{self.index}"

    def unavailable(self) -> str | None:
        """This build of torch has no CUDA, finds no device, or not so many."""
        import torch

        if torch.version.cuda is None:
            return f"this build of torch has no CUDA (torch {torch.__version__})"
        if not torch.cuda.is_available():
            return f"torch finds no usable CUDA device (torch {torch.__version__})"
        if self.index >= torch.cuda.device_count():
            return f"there are {torch.cuda.device_count()} CUDA devices, numbered from 0"
        return None

    def missing_toolkit(self) -> str | None:
        """CUDA's headers and libraries, which torch's own packages do not bring."""
        from torch.utils.cpp_extension import CUDA_HOME

        if CUDA_HOME is not None:
            return None
        import torch

        return (
            "CUDA's toolkit is missing (no CUDA_HOME, no nvcc, no /usr/local/cuda), which an AOTInductor package is "
            f"compiled with: install that of CUDA {torch.version.cuda} and set CUDA_HOME to its folder"
        )

    def release(self) -> None:
        """The cache of PyTorch's allocator; what tensors hold stays."""
        import torch

        gc.collect()
        torch.cuda.empty_cache()

    def enter_thread(self) -> None:
        """Without a current context the thread's first cuBLAS call warns, and takes the first GPU's."""
        import torch

        torch.cuda.set_device(self.index)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies on this very GPU."""
        return tensor.is_cuda and tensor.device.index == self.index

    def synchroniser(self) -> Callable[[], None]:
        """Waits for every stream of this GPU."""
        import torch

        return lambda: torch.cuda.synchronize(self.index)

    def waiter(self) -> Callable[[], None]:
        """Waits for the thread's current stream, where every runtime's bound call leaves its work or joins it."""
        import torch

        return lambda: torch.cuda.current_stream(self.index).synchronize()

    def timed_s(self, work: Callable[[], Any]) -> float | None:
        """Between two events on the current stream."""
        import torch

        with torch.cuda.device(self.index):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            work()
            ended.record()
            ended.synchronize()
        return float(began.elapsed_time(ended)) * 1e-3

    def allow_tf32(self) -> None:
        """In the products of cuBLAS and the layers of cuDNN."""
        import torch

        backends: Any = torch.backends
        for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
            part.fp32_precision = "tf32"

    def captured(self, call: Callable[[], _Result]) -> Callable[[], _Result]:
        """A CUDA graph."""
        return graph.captured(call, self.index)

    def board(self) -> Board | str | None:
        """By NVML."""
        return board(self.index)

    def prepare_deterministic(self) -> None:
        """CuBLAS's workspace of fixed size."""
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _DETERMINISTIC_WORKSPACE)

    def random_state(self) -> torch.Tensor | None:
        """This GPU's generator."""
        import torch

        return torch.cuda.get_rng_state(self.index)

    def restore_random_state(self, state: torch.Tensor) -> None:
        """This GPU's generator."""
        import torch

        torch.cuda.set_rng_state(state.cpu(), self.index)

    def new_stream(self) -> Any:
        """A stream for a runtime other than torch, which torch knows too: calls are put in order by events."""
        import torch

        return torch.cuda.Stream(self.index)

    def current_stream(self) -> Any:
        """The stream to which this thread gives torch's work."""
        import torch

        return torch.cuda.current_stream(self.index)


DEVICES: dict[str, type[Device]] = {"cpu": Device, "cuda": Cuda}
HOST = Device("cpu")


def device(name: str) -> Device:
    """The device of a name.

    Raises:
        UserError: no name of a device.
    """
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in DEVICES or (match[1] == "cpu" and match[2] is not None):
        raise UserError(f"device must be {' or '.join(DEVICES)}, or one with a number such as cuda:1; got {name!r}")
    return HOST if name == HOST.name else DEVICES[match[1]](name, int(match[2] or 0))


def choose(wanted: str) -> Device:
    """The device that is asked for; for ``auto`` the first that is usable and is not the CPU, else the CPU.

    Raises:
        UserError: the one asked for cannot be used; with the reason.
    """
    if wanted == "auto":
        others = (device(kind) for kind in DEVICES if kind != "cpu")
        return next((other for other in others if other.unavailable() is None), device("cpu"))
    chosen = device(wanted)
    if (reason := chosen.unavailable()) is not None:
        raise UserError(f"--device {wanted}: {reason}. Use --device cpu, or install a build of torch for it")
    return chosen
