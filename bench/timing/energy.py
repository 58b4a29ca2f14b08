"""Energy, where the machine counts it: Intel and AMD packages through Linux's powercap, NVIDIA GPUs through NVML.

It is read, never estimated from a rated power. What a counter shows is the whole package's or board's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from export.device import Device
from export.gpus.nvml import Board

_POWERCAP = Path("/sys/class/powercap")


def energy_counter(where: Device) -> Callable[[], float | None]:
    """Reads joules used since some time in the past; it answers None where nothing counts them, or none may be read."""
    board = where.board()
    if board is None:
        return _packages
    return board.energy_joules if isinstance(board, Board) else lambda: None


def _packages() -> float | None:
    """The sum over processor packages (``intel-rapl:N``); their parts are counted within them."""
    files = [zone / "energy_uj" for zone in _POWERCAP.glob("intel-rapl:[0-9]*") if zone.name.count(":") == 1]
    try:
        return sum(int(file.read_text()) for file in files) * 1e-6 if files else None
    except OSError:  # root's alone on many systems
        return None
