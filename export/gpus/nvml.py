"""What NVML tells of the GPUs that this process may use: which they are, their memory, clocks and processes.

Nothing here imports torch or makes a CUDA context, so that it can be asked before a cold start is timed. What cannot be
read is None, or a sentence that says why; never an exception. NVML comes from nvidia-ml-py, the extra ``gpu``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from export import hints
from export.gpus.listed import DRIVER_FILES, VISIBLE, Listed, order_known, picked, proc_list, smi_list

_IDLE = 0x1
_THROTTLES = {
    0x2: "clocks set by the user", 0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "heat, by the driver", 0x40: "heat, by the hardware", 0x80: "power brake", 0x100: "clocks of the display",
    0x200: "limit of the board", 0x400: "reliability",
}  # fmt: skip
"""NVML's bits of why a clock is not at its highest; idleness is no reason that matters here."""


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """What of a GPU does not change while it is measured."""

    name: str
    uuid: str
    driver: str | None
    newest_toolkit: str | None
    """The newest CUDA that the driver can run: ``13.0``."""
    memory_bytes: int | None
    power_limit_watts: float | None


@dataclass(frozen=True, kw_only=True)
class Board:
    """A GPU that NVML answers for, or a part of one (MIG)."""

    nvml: Any
    listed: Listed

    @property
    def facts(self) -> GpuFacts:
        """Its name, and what it has."""
        version = _ask(self.nvml, "nvmlSystemGetCudaDriverVersion")
        memory, limit_mw = self.ask("MemoryInfo"), self.ask_whole("PowerManagementLimit")
        return GpuFacts(
            name=self.listed.name,
            uuid=self.listed.uuid,
            driver=_text(_ask(self.nvml, "nvmlSystemGetDriverVersion")),
            newest_toolkit=None if version is None else f"{version // 1000}.{version % 1000 // 10}",
            memory_bytes=None if memory is None else int(memory.total),
            power_limit_watts=None if limit_mw is None else limit_mw * 1e-3,
        )

    def ask(self, question: str, *arguments: int) -> Any:
        """NVML's answer to ``nvmlDeviceGet<question>``; None where it has none."""
        return _ask(self.nvml, f"nvmlDeviceGet{question}", self.listed.handle, *arguments)

    def ask_whole(self, question: str, *arguments: int) -> Any:
        """The same of the whole board: a part has no clock, no temperature and no power of its own."""
        whole = self.listed.handle
        if self.listed.uuid.startswith("MIG-"):
            whole = _ask(self.nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", whole)
        return None if whole is None else _ask(self.nvml, f"nvmlDeviceGet{question}", whole, *arguments)

    def used_bytes(self) -> int | None:
        """Memory that all processes hold."""
        memory = self.ask("MemoryInfo")
        return None if memory is None else int(memory.used)

    def free_bytes(self) -> int | None:
        """Memory that no process holds."""
        memory = self.ask("MemoryInfo")
        return None if memory is None else int(memory.total - memory.used)

    def process_bytes(self) -> dict[int, int | None] | None:
        """Memory by process that computes on it; None where NVML does not tell, also for one of them."""
        listing = self.ask("ComputeRunningProcesses")
        return None if listing is None else {int(process.pid): process.usedGpuMemory for process in listing}

    def energy_joules(self) -> float | None:
        """Used since the driver was loaded; a part has no counter."""
        used_mj = self.ask("TotalEnergyConsumption")
        return None if used_mj is None else used_mj * 1e-3

    def throttles(self) -> tuple[str, ...] | None:
        """Why its clocks are lower than they could be, now."""
        bits = self.ask_whole("CurrentClocksThrottleReasons")
        if bits is None:
            return None
        unknown = bits & ~(sum(_THROTTLES) | _IDLE)
        return (*(name for bit, name in _THROTTLES.items() if bits & bit), *([f"{unknown:#x}"] if unknown else []))


def board(index: int) -> Board | str:
    """The board of the process's CUDA device of this number, or why NVML does not tell of it."""
    nvml, reason = _nvml()
    if reason is not None:
        return reason
    every = _nvml_list(nvml)
    if not every:
        return "NVML lists no GPU"
    if not order_known(every):
        return (
            "the GPUs of this machine differ, and CUDA numbers them by speed: which of them NVML means is not known; "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    visible = picked(every)
    if index >= len(visible):
        return (
            f"NVML lists {len(visible)} GPUs that are visible to this process ({VISIBLE}={os.environ.get(VISIBLE)!r})"
        )
    return Board(nvml=nvml, listed=visible[index])


def visible() -> tuple[str, ...]:
    """Names of the GPUs that this process may use; all of the machine's where CUDA's own order is not known."""
    every = _every()
    return tuple(gpu.name for gpu in (picked(every) if order_known(every) else every))


def driver_version() -> str | None:
    """The driver's version, by NVML or by the driver's own file."""
    nvml, reason = _nvml()
    if reason is None and (answer := _text(_ask(nvml, "nvmlSystemGetDriverVersion"))) is not None:
        return answer
    try:
        match = re.search(r"  (\d+\.[\d.]+)  ", (DRIVER_FILES / "version").read_text(encoding="utf-8"))
    except OSError:
        return None
    return match[1] if match else None


def _every() -> list[Listed]:
    """The machine's GPUs, by the first list that there is."""
    nvml, reason = _nvml()
    if reason is None:
        return _nvml_list(nvml)
    return (smi_list() if nvml is None else []) or proc_list()  # where NVML is there and fails, so does nvidia-smi


def _nvml() -> tuple[Any, str | None]:
    """NVML's module, if it is installed; and why it does not answer, if it does not."""
    try:
        import pynvml
    except ImportError:
        return None, f"nvidia-ml-py is not installed: {hints.install('gpu')}"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return pynvml, f"NVML does not answer: {error}"
    return pynvml, None


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """What a function of NVML answers; None where it has no answer, or is too old to know the question."""
    if (known := getattr(nvml, function, None)) is None:
        return None
    try:
        return known(*arguments)
    except nvml.NVMLError:
        return None


def _text(answer: str | bytes | None) -> str | None:
    """Older modules answer in bytes."""
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def _nvml_list(nvml: Any) -> list[Listed]:
    handles = (
        _ask(nvml, "nvmlDeviceGetHandleByIndex", index) for index in range(_ask(nvml, "nvmlDeviceGetCount") or 0)
    )
    return [_described(nvml, handle, _parts(nvml, handle)) for handle in handles if handle is not None]


def _described(nvml: Any, handle: Any, parts: tuple[Listed, ...] | None = None) -> Listed:
    name, uuid = (_text(_ask(nvml, f"nvmlDeviceGet{what}", handle)) for what in ("Name", "UUID"))
    return Listed(name=name or "NVIDIA GPU", uuid=uuid or "", parts=parts, handle=handle)


def _parts(nvml: Any, handle: Any) -> tuple[Listed, ...] | None:
    if (_ask(nvml, "nvmlDeviceGetMigMode", handle) or (0,))[0] == 0:
        return None
    most = _ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0
    handles = (_ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index) for index in range(most))
    return tuple(_described(nvml, part) for part in handles if part is not None)
