"""Whether the library of ONNX Runtime's provider for a device can be loaded here, and what is in its way.

The wheel lists a provider wherever it holds its library. That it does not load would be found out when a session opens,
which then takes the CPU and says why in its log alone.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from functools import cache
from pathlib import Path

from export.device import Device
from export.runtimes.needed_libraries import needed_libraries

_DRIVER_REMEDY = "Install NVIDIA's driver; in a container, start it with the GPU"


def unloadable(package: Path, distribution: str, where: Device) -> str | None:
    """Why the library in the runtime's package cannot be used, with the remedy; None if it can, or cannot be tried.

    torch is imported first, as before every session: it brings the libraries that the provider is linked against.
    """
    import torch

    library = package / "capi" / f"libonnxruntime_providers_{where.kind}.so"
    if sys.platform != "linux" or not library.is_file():
        return None
    built_for, torch_built_for = _toolkit(where), getattr(torch.version, where.kind)
    error = _load_error(library)
    if error is None and (built_for is None or _major(built_for) == _major(torch_built_for)):
        return None
    both = f"{distribution} is built for {_named(built_for)}, torch {torch.__version__} for {_named(torch_built_for)}"
    if error is None:
        return f"{both}; they would share one cuDNN, which fits one of them. {_remedy(built_for, torch_built_for)}"
    is_driver = error.startswith(f"lib{where.kind}.so.")  # which no package holds
    remedy = _DRIVER_REMEDY if is_driver else _remedy(built_for, torch_built_for)
    return f"{both}; its {where.provider} does not load: {error}. {remedy}"


def _remedy(built_for: str | None, torch_built_for: str | None) -> str:
    if built_for is None or _major(built_for) == _major(torch_built_for):
        return "Install torch anew: it brings these libraries, as packages of their own"
    major = _major(built_for)
    torchs = f"Install a torch that is built for CUDA {major} (its wheels are called +cu{major}...)"
    return torchs if torch_built_for is None else f"{torchs}, or this runtime built for CUDA {_major(torch_built_for)}"


@cache
def _load_error(library: Path) -> str | None:
    """The loader's own sentence about what the library is linked against; None if all of that loads.

    The library itself is left to the runtime: its initialiser asks for the runtime's own table, which a session sets,
    and ends the process where none has.
    """
    try:
        for name in needed_libraries(library):
            beside = library.with_name(name)
            ctypes.CDLL(str(beside) if beside.is_file() else name)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _toolkit(where: Device) -> str | None:
    """The version that the runtime's wheel says it was built with: ``13.0``."""
    facts = importlib.import_module("onnxruntime.capi.build_and_package_info")
    return getattr(facts, f"{where.kind}_version", None) or None


def _major(version: str | None) -> str:
    return (version or "").partition(".")[0]


def _named(version: str | None) -> str:
    return f"CUDA {version}" if version else "none"
