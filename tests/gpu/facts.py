"""The machine, and what is installed on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sysconfig
import time
from importlib import metadata
from pathlib import Path

import psutil

from tests.gpu.step import Context

_SHOWN = (
    "name", "driver_version", "memory.total", "memory.used", "clocks.sm", "clocks.mem",
    "clocks_throttle_reasons.active", "power.draw", "power.limit", "temperature.gpu", "mig.mode.current",
    "compute_mode", "persistence_mode",
)  # fmt: skip
_PACKAGES = (
    "torch", "triton", "numpy", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "nvidia-cudnn-cu13",
    "nvidia-cublas", "nvidia-cuda-runtime", "nvidia-ml-py", "safetensors", "msgspec", "rfc8785", "tyro", "altair",
    "vl-convert-python", "scikit-learn", "pytest",
)  # fmt: skip


def facts(context: Context) -> None:
    """Figures by name, and one table of what nvidia-smi tells."""
    context.put("python", platform.python_version())
    context.put("cores_count", len(os.sched_getaffinity(0)))
    context.put("memory_gib", psutil.virtual_memory().total / 2**30)
    context.put("versions", {name: version for name in _PACKAGES if (version := _version(name))})
    _torch(context)
    _onnxruntime(context)
    _compilers(context)
    _driver(context)
    with context.attempt("own view", what="export.environment.environment()") as found:
        from export.environment import environment

        found["value"] = str(environment())


def _torch(context: Context) -> None:
    started = time.monotonic()
    import torch

    context.put("torch_import_s", time.monotonic() - started)
    context.put("torch_cuda", torch.version.cuda)
    context.put("cudnn", torch.backends.cudnn.version())
    if context.device == "cuda":
        started = time.monotonic()
        torch.zeros(1, device="cuda")
        torch.cuda.synchronize()
        context.put("cuda_context_s", time.monotonic() - started)
        context.put("architectures", torch.cuda.get_arch_list())
        context.put("capability", torch.cuda.get_device_capability())
        properties = torch.cuda.get_device_properties(0)
        context.put("device", f"{properties.name}, {properties.multi_processor_count} multiprocessors")
        context.put("device_memory_gib", properties.total_memory / 2**30)


def _onnxruntime(context: Context) -> None:
    with context.attempt("onnxruntime", what="import") as found:
        import onnxruntime

        found["value"] = onnxruntime.__version__
        context.put("onnxruntime_providers", onnxruntime.get_available_providers())


def _compilers(context: Context) -> None:
    from torch.utils import cpp_extension

    context.put("CUDA_HOME", f"{cpp_extension.CUDA_HOME} (environment: {os.environ.get('CUDA_HOME')})")
    for name in ("nvcc", "ptxas", "gcc", "g++", "cc", "c++", "cuobjdump", "ninja"):
        path = shutil.which(name)
        said = _said(path, "--version") if path else []
        version = next((line for line in said if re.search(r"\d+\.\d+", line)), "")
        context.row("compilers", name=name, path=path, version=version)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    context.put("python_header", f"{header}: {'there' if header.is_file() else 'missing'}")


def _driver(context: Context) -> None:
    if (path := shutil.which("nvidia-smi")) is None:
        context.put("nvidia_smi", "not there")
    else:
        for name in _SHOWN:  # one by one: a field that a driver does not know fails the whole query
            said = _said(path, f"--query-gpu={name}", "--format=csv,noheader")
            context.row("nvidia-smi", field=name, value=" / ".join(said))
        processes = _said(path, "--query-compute-apps=pid,name,used_memory", "--format=csv,noheader")
        context.put("processes_on_the_gpu", processes)
    with context.attempt("NVML", what="energy counter") as found:
        import pynvml

        pynvml.nvmlInit()
        board = pynvml.nvmlDeviceGetHandleByIndex(0)
        before_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(board)
        time.sleep(0.5)
        found["value"] = f"{(pynvml.nvmlDeviceGetTotalEnergyConsumption(board) - before_mj) / 500:.1f} W over 0.5 s"


def _said(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [str(error)]
    return [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
