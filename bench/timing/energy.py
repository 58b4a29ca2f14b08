"""Energy, where the machine counts it: Intel and AMD packages through Linux's powercap, NVIDIA GPUs through NVML.

It is read, never estimated from a rated power. What a counter shows is the whole package's or board's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")


def energy_counter(device: str) -> Callable[[], float] | None:
    """Reads joules used since some time in the past; None where nothing counts them, or none may be read."""
    return _nvml() if device == "cuda" else _packages()


def _packages() -> Callable[[], float] | None:
    """The sum over processor packages (``intel-rapl:N``); their parts are counted within them."""
    files = [zone / "energy_uj" for zone in _POWERCAP.glob("intel-rapl:[0-9]*") if zone.name.count(":") == 1]
    try:
        [file.read_text() for file in files]
    except OSError:  # root's alone on many systems
        return None
    return (lambda: sum(int(file.read_text()) for file in files) * 1e-6) if files else None


def _nvml() -> Callable[[], float] | None:
    """The first GPU's counter; needs ``nvidia-ml-py``."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    pynvml.nvmlInit()
    board = pynvml.nvmlDeviceGetHandleByIndex(0)
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(board) * 1e-3
