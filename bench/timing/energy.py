"""Energy, where the machine counts it: Intel and AMD packages through Linux's powercap, NVIDIA GPUs through NVML.

It is read, never estimated from a rated power. What a counter shows is the whole package's or board's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from export.device import Device

_POWERCAP = Path("/sys/class/powercap")


def energy_counter(where: Device) -> Callable[[], float] | None:
    """Reads joules used since some time in the past; None where nothing counts them, or none may be read."""
    return _nvml(where) if where.asynchronous else _packages()


def _packages() -> Callable[[], float] | None:
    """The sum over processor packages (``intel-rapl:N``); their parts are counted within them."""
    files = [zone / "energy_uj" for zone in _POWERCAP.glob("intel-rapl:[0-9]*") if zone.name.count(":") == 1]
    try:
        [file.read_text() for file in files]
    except OSError:  # root's alone on many systems
        return None
    return (lambda: sum(int(file.read_text()) for file in files) * 1e-6) if files else None


def _nvml(where: Device) -> Callable[[], float] | None:
    """The GPU's counter; needs ``nvidia-ml-py``, and a driver that lets it be read."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
        board = pynvml.nvmlDeviceGetHandleByIndex(where.index)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(board)
    except pynvml.NVMLError:  # no library, a part of a GPU (MIG), a virtual one: nothing counts it
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(board) * 1e-3
