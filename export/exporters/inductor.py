"""Inductor's settings for this process, shared by the two backends that compile with it.

Measured on 2 cores for the default recipe (docs/measured/inductor.md): precompiling PyTorch's headers costs 8 of 24 s
for a package and is off; proving each instruction set by compiling a program for it costs 6 s more, and is skipped
where GCC is new enough to know them all.

A compiler that finds no ``libstdc++.so`` (images without its development package's link are common) takes
``libstdc++.a``: the library then brings a second C++ runtime into the process, and torch's loader dies in the first
regular expression (docs/measured/gpu.md; https://github.com/crosstool-ng/crosstool-ng/issues/2478 has the same frames).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from export.errors import UserError
from export.runtimes.needed_libraries import needed_libraries

_CXX_RUNTIME = "libstdc++.so"
_GCC_KNOWS_ALL_ISAS = 11
"""GCC 11 accepts the flags of every instruction set that torch 2.11-2.15 may ask for (AMX came last)."""


def prepare(cache: Path, threads_count: int | None = None) -> None:
    """Point Inductor's cache at ``cache`` and choose how it compiles; call before the first compilation.

    ``threads_count`` (None: all cores, whatever OMP_NUM_THREADS says) is built into what is compiled for the CPU, and
    is part of its key in the cache.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    import torch
    from torch._inductor import config

    from export.environment import cores_count

    torch.set_num_threads(cores_count() if threads_count is None else threads_count)
    for name, value in settings().items():
        setattr(config, name, value)


def settings() -> dict[str, int | bool]:
    """How it compiles, by the names of its settings."""
    # Builds already run side by side; a pool of compile workers would start torch again.
    chosen: dict[str, int | bool] = {"compile_threads": 1, "cpp_cache_precompile_headers": False}
    return chosen | ({"cpp.vec_isa_ok": True} if _gcc_major() >= _GCC_KNOWS_ALL_ISAS else {})


def runtime_libraries() -> list[str]:
    """What to link besides, as ``-l`` takes it: the C++ runtime, where the compiler has no link to it."""
    if sys.platform != "linux":
        return []
    has_link = _compiler_says(f"-print-file-name={_CXX_RUNTIME}") != _CXX_RUNTIME  # it repeats what it does not find
    return [] if has_link else [f":{_CXX_RUNTIME}.6"]


def check_runtime(library: Path) -> None:
    """See that a library compiled on Linux shares the process's C++ runtime.

    Raises:
        UserError: it brings its own.
    """
    needed = needed_libraries(library)
    if not any(name.startswith(("libstdc++.so", "libc++.so")) for name in needed):
        raise UserError(
            f"the C++ compiler linked its runtime statically ({library.name} needs {', '.join(needed)} alone), and two "
            "runtimes crash the process that loads it: install g++ with its libstdc++.so (apt-get install g++), or "
            "name another compiler in CXX"
        )


def _gcc_major() -> int:
    """The major version of g++, 0 if the compiler is no GCC (it then proves each instruction set by compiling)."""
    try:
        return int(_compiler_says("-dumpfullversion").split(".")[0])
    except ValueError:
        return 0


def _compiler_says(question: str) -> str:
    """Its answer without the line's end; nothing where it has none."""
    command = [os.environ.get("CXX", "g++"), question]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
