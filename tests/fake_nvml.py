"""A module that answers as ``pynvml`` does, for machines without a GPU: what it answers a test sets."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class NVMLError(Exception):
    """What every function of a module that is ``silent`` raises."""


@dataclass
class FakeGpu:
    """A GPU, or a part of one, with what NVML would answer for it."""

    name: str = "NVIDIA H100"
    uuid: str = "GPU-aaaa-1"
    parts: list[FakeGpu] = field(default_factory=list)
    whole: FakeGpu | None = None
    used_bytes: int = 100 << 20
    processes: dict[int, int | None] = field(default_factory=dict)
    sm_mhz: int = 1980
    throttle_bits: int = 1
    energy_mj: int = 0


class FakeNvml(ModuleType):
    """``pynvml``, as far as it is used; in ``silent`` stand the functions that answer with an error."""

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *gpus: FakeGpu) -> None:
        super().__init__("pynvml")
        self.gpus = gpus
        self.silent: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        answer = super().__getattribute__(name)
        if name.startswith("nvml") and (name in self.silent or "*" in self.silent):
            return self._refuse
        return answer

    def _refuse(self, *_: Any) -> Any:
        raise NVMLError("Not Supported")

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.159.04"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 13000

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.uuid

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:  # noqa: N802
        return [int(bool(gpu.parts)), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:  # noqa: N802
        if index >= len(gpu.parts):
            raise NVMLError("Not Found")
        return gpu.parts[index]

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, gpu: FakeGpu) -> FakeGpu:  # noqa: N802
        assert gpu.whole is not None
        return gpu.whole

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=80 << 30, used=gpu.used_bytes)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in gpu.processes.items()]

    def nvmlDeviceGetPowerManagementLimit(self, gpu: FakeGpu) -> int:  # noqa: N802
        self._of_whole(gpu)
        return 700_000

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:  # noqa: N802
        self._of_whole(gpu)
        return 117_370

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:  # noqa: N802
        self._of_whole(gpu)
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 36

    def nvmlDeviceGetClockInfo(self, gpu: FakeGpu, kind: int) -> int:  # noqa: N802
        self._of_whole(gpu)
        assert kind == self.NVML_CLOCK_SM
        return gpu.sm_mhz

    def nvmlDeviceGetMaxClockInfo(self, gpu: FakeGpu, kind: int) -> int:  # noqa: N802
        self._of_whole(gpu)
        return 1980

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: FakeGpu) -> int:  # noqa: N802
        self._of_whole(gpu)
        return gpu.throttle_bits

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: FakeGpu) -> int:  # noqa: N802
        self._of_whole(gpu)
        return gpu.energy_mj

    @staticmethod
    def _of_whole(gpu: FakeGpu) -> None:
        if gpu.whole is not None:
            raise NVMLError("Not Supported")  # as for parts of a GPU


def install(monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu) -> FakeNvml:
    """NVML answers for these GPUs, all of which are visible."""
    nvml = FakeNvml(*gpus)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return nvml
