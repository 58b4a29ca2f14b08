"""What a result depends on besides its inputs: versions, processor, devices."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from export.errors import UserError

_PACKAGES = ("torch", "numpy", "onnx", "onnxscript", "onnx-ir", "safetensors", "openvino", "nncf")
_ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-training",
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The hardware as far as timings depend on it."""

    system: str
    architecture: str
    cpu: str
    cores_count: int
    gpus: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Versions by distribution name, and the machine."""

    python: str
    versions: dict[str, str]
    machine: Machine


@cache
def environment() -> Environment:
    """The environment of this process; reads package metadata only, imports no runtime."""
    return Environment(python=platform.python_version(), versions=versions(), machine=machine())


@cache
def versions() -> dict[str, str]:
    """Installed versions of what exports and runs models, by distribution name.

    Raises:
        UserError: two distributions that both provide the module ``onnxruntime`` are installed.
    """
    packages = {name: installed for name in _PACKAGES if (installed := _installed(name))}
    runtimes = {name: installed for name in _ONNXRUNTIMES if (installed := _installed(name))}
    if len(runtimes) > 1:
        named = " and ".join(f"{name} {installed}" for name, installed in runtimes.items())
        raise UserError(
            f"{named} are installed side by side: each overwrites the other's files.\n"
            f"Keep one: pip uninstall -y {' '.join(runtimes)} && pip install {next(reversed(runtimes))}"
        )
    return packages | runtimes


@cache
def machine() -> Machine:
    """The processor and the CUDA devices of this machine, as the driver names them."""
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        cpu=_cpu_name(),
        cores_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=_gpu_names(),
    )


def cores_count() -> int:
    """Cores that this process may use."""
    return machine().cores_count


def missing_compiler() -> str | None:
    """Why Inductor could not compile C++ here, with the command that mends it; None if it could."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler} is missing: apt-get install g++ (or your system's package of it)"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        return f"the Python headers are missing ({header}): apt-get install python3-dev"
    return None


def version(distribution: str) -> str | None:
    """The installed version of a distribution; ``onnxruntime`` also by any of its builds. None if it is not there."""
    if distribution == "onnxruntime":
        return next((installed for name in _ONNXRUNTIMES if (installed := _installed(name))), None)
    return _installed(distribution)


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the generic name is what there is
    return platform.processor() or platform.machine()


def _gpu_names() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    return tuple(line.split(" (UUID")[0] for line in listing.stdout.splitlines() if line.startswith("GPU"))
