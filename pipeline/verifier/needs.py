"""What an artifact needs, held against this machine before anything of it is loaded."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from pipeline.verifier.archives import torch_members
from pipeline.verifier.outcome import Refused, parse_json

_METADATA_BYTES = 1 << 20
_METADATA_FILE, _ITS_PLACE = "wrapper_metadata.json", re.compile(r"[^/]+/data/aotinductor/model/[^/]+")
"""Where AOTInductor's loader reads what the model called ``model`` was compiled for."""
_METADATA = {
    "AOTI_PLATFORM": "system",
    "AOTI_MACHINE": "machine",
    "AOTI_CPU_ISA": "cpu_isa",
    "AOTI_COMPUTE_CAPABILITY": "compute_capability",
}
"""What the metadata of an AOTInductor package calls a need."""
_ISA_FLAGS = {
    "AVX2": ("avx2", "fma"),
    "AVX512": ("avx512f", "avx512dq", "avx512vl", "avx512bw"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AMX_TILE": ("amx_tile",),
    "AMX_FP16": ("amx_fp16",),
}
"""Inductor's names of instruction sets, and Linux's of what they need."""
GPU = "gpu"
"""The need of an artifact that was judged on a GPU: who made it."""
_NVIDIA, _NVIDIA_GPUS = "nvidia", Path("/proc/driver/nvidia/gpus")
_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}
"""Packages that are distributed under several names."""
_PACKAGE, _VERSION = re.compile(r"[A-Za-z0-9][\w.-]{0,63}"), re.compile(r"(>=|==)\d[\w.+!-]{0,63}")


def package_needs(path: Path) -> dict[str, str]:
    """What an AOTInductor package says of itself that its code was compiled for; nothing of any other file.

    Raises:
        Refused: a truncated package, or one that torch does not write like that.
    """
    if path.suffix != ".pt2":
        return {}
    members = [member for member in torch_members(path) if member.name.endswith(_METADATA_FILE)]
    if not members:
        return {}  # a program that is not compiled
    stating = members[0]
    if len(members) > 1 or not _ITS_PLACE.fullmatch(stating.name) or stating.size_bytes > _METADATA_BYTES:
        raise Refused(
            f"{path.name} must say once what it was compiled for, where torch reads it: {stating.name[:200]!r}"
        )
    with open(path, "rb") as file:
        file.seek(stating.offset)
        stated = parse_json(file.read(stating.size_bytes), stating.name)
    if not isinstance(stated, dict):
        raise Refused(f"{stating.name} in {path.name} must be an object, got {str(stated)[:100]}")
    return {need: str(stated[name]) for name, need in _METADATA.items() if stated.get(name)}


def cannot_run(needs: Mapping[str, str]) -> str | None:
    """Why an artifact with these needs cannot run on this machine; None if nothing speaks against it."""
    reasons = (_lacking(name, wanted) for name, wanted in needs.items())
    return next((reason for reason in reasons if reason is not None), None)


def _lacking(name: str, wanted: str) -> str | None:
    if wanted.startswith((">=", "==")):
        if not (_PACKAGE.fullmatch(name) and _VERSION.fullmatch(wanted)):
            return f"it needs {name[:50]!r} {wanted[:50]!r}, which is not a package and a version of it"
        return _other_version(name, wanted)
    here = {"system": platform.system().lower, "machine": platform.machine, "compute_capability": _compute_capability}
    if name in here and (present := here[name]()) != wanted:
        return f"it was built for {name.replace('_', ' ')} {wanted}, this is {present or 'without one'}"
    if name == GPU and (wanted != _NVIDIA or not _has_nvidia_gpu()):
        return f"it needs a GPU of {wanted[:50]}, and this machine shows none"
    if name == "cpu_isa" and (flags := _cpu_flags()):
        lacking = [isa for isa in wanted.split() if not flags.issuperset(_ISA_FLAGS.get(isa, ()))]
        if lacking:
            return f"it contains {lacking[0]} instructions, which this processor does not have"
    return None


def _other_version(package: str, wanted: str) -> str | None:
    """Whether the installed version is below what is wanted (``>=``), or of another minor version (``==``)."""
    present = installed(package)
    if present is None:
        return f"it needs {package} {wanted}, which is not installed: {sys.executable} -m pip install {package}"
    numbers, least = _numbers(present), _numbers(wanted)
    wrong = numbers[:2] != least[:2] if wanted.startswith("==") else numbers < least
    return f"it needs {package} {wanted}, this is {present}" if wrong else None


def installed(package: str) -> str | None:
    """The version of a package here, in any of its distributions."""
    for distribution in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass  # not Linux: the flags are not known, and nothing is refused for them
    return set()


def _has_nvidia_gpu() -> bool:
    """By its tool, or by the driver where a container brings the one without the other."""
    if _compute_capability() is not None:
        return True
    try:
        return any(_NVIDIA_GPUS.iterdir())
    except OSError:
        return False


def _compute_capability() -> str | None:
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return output.split()[0].replace(".", "") if output.split() else None
