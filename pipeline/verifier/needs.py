"""What an artifact needs, held against this machine before anything of it is loaded."""

from __future__ import annotations

import platform
import re
import subprocess
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from pipeline.verifier.outcome import Refused, parse_json

_METADATA_BYTES = 1 << 20
_ISA_FLAGS = {
    "AVX2": ("avx2", "fma"),
    "AVX512": ("avx512f", "avx512dq", "avx512vl", "avx512bw"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AMX_TILE": ("amx_tile",),
    "AMX_FP16": ("amx_fp16",),
}
"""Inductor's words for instruction sets, and Linux's for what they need."""


_METADATA = {
    "AOTI_PLATFORM": "system",
    "AOTI_MACHINE": "machine",
    "AOTI_CPU_ISA": "cpu_isa",
    "AOTI_COMPUTE_CAPABILITY": "compute_capability",
}


def package_needs(path: Path) -> dict[str, str]:
    """What an AOTInductor package says of itself that its code was compiled for; nothing of any other file.

    Raises:
        Refused: a truncated package.
    """
    if path.suffix != ".pt2":
        return {}
    found: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for one in archive.infolist():
                if one.filename.endswith("_metadata.json") and one.file_size <= _METADATA_BYTES:
                    output = parse_json(archive.read(one), one.filename)
                    found.update({need: str(output[name]) for name, need in _METADATA.items() if output.get(name)})
    except (zipfile.BadZipFile, NotImplementedError, AttributeError, OSError) as error:
        raise Refused(f"{path.name} is truncated or no package: {error}") from None
    return found


def cannot_run(needs: Mapping[str, str]) -> str | None:
    """Why an artifact with these needs cannot run on this machine; None if nothing speaks against it."""
    reasons = (_lacking(name, wanted) for name, wanted in needs.items())
    return next((reason for reason in reasons if reason is not None), None)


def _lacking(name: str, wanted: str) -> str | None:
    if name in ("torch", "onnxruntime", "openvino"):
        return _older(name, wanted)
    have = {"system": platform.system().lower, "machine": platform.machine, "compute_capability": _compute_capability}
    if name in have and (mine := have[name]()) != wanted:
        return f"it was built for {name.replace('_', ' ')} {wanted}, this is {mine or 'without one'}"
    if name == "cpu_isa" and (flags := _cpu_flags()):
        lacking = [isa for isa in wanted.split() if not flags.issuperset(_ISA_FLAGS.get(isa, ()))]
        if lacking:
            return f"it contains {lacking[0]} instructions, which this processor does not have"
    return None


def _older(name: str, wanted: str) -> str | None:
    """Whether the installed version is below what is wanted (``>=``), or of another minor version (``==``)."""
    have = installed(name)
    if have is None:
        return f"{name} is not installed: pip install {name}"
    mine, least = _numbers(have), _numbers(wanted)
    wrong = mine[:2] != least[:2] if wanted.startswith("==") else mine < least
    return f"it needs {name} {wanted}, this is {have}" if wrong else None


def installed(name: str) -> str | None:
    """The version of a package here, in any of its distributions."""
    for distribution in {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass  # not Linux: the flags are not known, and nothing is said of them
    return set()


def _compute_capability() -> str | None:
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return output.split()[0].replace(".", "") if output.split() else None
