"""The machine's GPUs as the driver lists them, and which of them this process may use.

CUDA numbers what ``CUDA_VISIBLE_DEVICES`` leaves, and that may hold numbers, UUIDs, their beginnings, and parts (MIG).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER_FILES = Path("/proc/driver/nvidia")
_SMI_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A GPU, or a part of one (MIG), as one of the driver's lists has it."""

    name: str
    uuid: str
    parts: tuple[Listed, ...] | None = None
    """Its parts; None where it is not divided."""
    handle: Any = None
    """NVML's; None in a list that is not NVML's."""


def picked(every: Sequence[Listed]) -> list[Listed]:
    """Those that ``CUDA_VISIBLE_DEVICES`` names, in its order; as CUDA does, none from the first wrong name on."""
    if (setting := os.environ.get(VISIBLE)) is None:
        return [seen for gpu in every if (seen := _first_part(gpu)) is not None]
    chosen = []
    for name in setting.split(","):
        if (gpu := _named(name.strip(), every)) is None:
            break
        chosen.append(gpu)
    return chosen


def order_known(every: Sequence[Listed]) -> bool:
    """Whether CUDA's numbers are NVML's (by bus), or names are given that need no order."""
    if len({gpu.name for gpu in every}) < 2 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return True
    setting = os.environ.get(VISIBLE)
    return setting is not None and not any(name.strip().isdecimal() for name in setting.split(","))


def smi_list() -> list[Listed]:
    """What ``nvidia-smi -L`` lists."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=_SMI_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return _read_listing(listing.stdout.splitlines())


def proc_list() -> list[Listed]:
    """What the driver shows as files, by bus: one without ``nvidia-smi``, as in a container that got the GPU alone."""
    gpus = []
    for file in sorted(DRIVER_FILES.glob("gpus/*/information")):
        fields = dict(re.findall(r"^(Model|GPU UUID):\s*(.+?)\s*$", file.read_text(encoding="utf-8"), re.MULTILINE))
        gpus.append(Listed(name=fields.get("Model", "NVIDIA GPU"), uuid=fields.get("GPU UUID", "")))
    return gpus


def _named(name: str, every: Sequence[Listed]) -> Listed | None:
    """The one that a number, or the beginning of a UUID, means; None if it is none, or several."""
    if name.isdecimal():
        return _first_part(every[int(name)]) if int(name) < len(every) else None
    pool = [part for gpu in every for part in gpu.parts or ()] if name.startswith("MIG-") else every
    matching = [gpu for gpu in pool if name and gpu.uuid.startswith(name)]
    return _first_part(matching[0]) if len(matching) == 1 else None


def _first_part(gpu: Listed) -> Listed | None:
    """What CUDA sees of a GPU that is named as a whole: where it is divided, its first part alone."""
    return gpu if gpu.parts is None else next(iter(gpu.parts), None)


def _read_listing(lines: Iterable[str]) -> list[Listed]:
    gpus: list[Listed] = []
    for line in lines:
        if (match := re.fullmatch(r"GPU \d+: (.+) \(UUID: (GPU-[^)]+)\)", line.strip())) is not None:
            gpus.append(Listed(name=match[1], uuid=match[2]))
        elif gpus and (match := re.fullmatch(r"(MIG \S+) +Device +\d+: \(UUID: (MIG-[^)]+)\)", line.strip())):
            whole = gpus.pop()
            part = Listed(name=f"{whole.name} {match[1]}", uuid=match[2])
            gpus.append(Listed(name=whole.name, uuid=whole.uuid, parts=(*(whole.parts or ()), part)))
    return gpus
