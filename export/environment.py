"""What a result depends on besides its inputs: versions, processor, devices."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sysconfig
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from export.errors import UserError
from export.gpus import nvml

_PACKAGES = ("torch", "numpy", "onnx", "onnxscript", "onnx-ir", "safetensors", "openvino", "nncf")
_ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-training",
)
_GPU_PACKAGES = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "triton")
DRIVER, TOOLKIT = "NVIDIA driver", "CUDA"
"""Names among the versions that are no distributions: the driver's, and the toolkit that torch was built with."""
_TOOLKIT = re.compile(r"^CUDA\b[^=\n]*= *'([\d.]+)'", re.IGNORECASE | re.MULTILINE)
"""How ``torch/version.py`` spells it."""
_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = ("flags", "Features")
"""What Linux calls the line of a processor's instructions: on x86, on ARM."""


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
    """Versions by distribution name, and the machine; where there is a GPU, also what stands between it and torch."""

    python: str
    versions: dict[str, str]
    machine: Machine


@cache
def environment() -> Environment:
    """The environment of this process; reads package metadata only, imports no runtime."""
    here = machine()
    return Environment(
        python=platform.python_version(),
        versions=versions() | (_gpu_versions() if here.gpus else {}),
        machine=here,
    )


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
    """The processor, and the GPUs that this process may use, as the driver names them."""
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        cpu=_cpu_name(),
        cores_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=nvml.visible(),
    )


def cores_count() -> int:
    """Cores that this process may use."""
    return machine().cores_count


def missing_compiler(language: Literal["C", "C++"] = "C++") -> str | None:
    """Why Inductor could not compile here, with the command that mends it; None if it could.

    C++ for the CPU and for packages; C for the launchers of Triton, which takes ``CC``, gcc or clang, and no ``cc``.
    """
    given = os.environ.get("CXX" if language == "C++" else "CC")
    usual = ("g++",) if language == "C++" else ("gcc", "clang")
    if not any(shutil.which(compiler) for compiler in ([given] if given else usual)):
        named, package = given or usual[0], usual[0]
        return f"the {language} compiler {named} is missing: apt-get install {package} (or your system's package of it)"
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
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the generic name is what there is
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """What the kernel says that the processor can do (``avx512_vnni``); empty where it does not say."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()  # not Linux
    flags = (line.partition(":")[2].split() for line in lines if line.startswith(_FLAGS))
    return frozenset(next(flags, ()))


def _gpu_versions() -> dict[str, str]:
    """The driver, the toolkit that torch was built with, cuDNN and Triton, as far as they are known."""
    platform_versions = {DRIVER: nvml.driver_version(), TOOLKIT: _torch_toolkit()}
    packages = {name: _installed(name) for name in _GPU_PACKAGES}
    return {name: known for name, known in (platform_versions | packages).items() if known}


def _torch_toolkit() -> str | None:
    """The version of CUDA that torch was built with, read from its file: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    folders = spec.submodule_search_locations or () if spec else ()
    files = (Path(folder) / "version.py" for folder in folders)
    match = next((_TOOLKIT.search(file.read_text(encoding="utf-8")) for file in files if file.is_file()), None)
    return match[1] if match else None
