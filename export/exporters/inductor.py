"""Inductor's settings for this process, shared by the two backends that compile with it.

Measured on 2 cores for the default recipe (docs/measured/inductor.md): precompiling PyTorch's headers costs 8 of 24 s
for a package and is off; proving each instruction set by compiling a program for it costs 6 s more, and is skipped
where GCC is new enough to know them all.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_GCC_KNOWS_ALL_ISAS = 11
"""GCC 11 accepts the flags of every instruction set that torch 2.11-2.15 may ask for (AMX came last)."""


def prepare(cache: Path) -> None:
    """Point Inductor's cache at ``cache`` and choose how it compiles; call before the first compilation."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    from torch._inductor import config

    config.compile_threads = 1  # builds already run side by side; a pool of compile workers would start torch again
    config.cpp_cache_precompile_headers = False
    if _gcc_major() >= _GCC_KNOWS_ALL_ISAS:
        config.cpp.vec_isa_ok = True


def _gcc_major() -> int:
    """The major version of g++, 0 if the compiler is no GCC (it then proves each instruction set by compiling)."""
    compiler = os.environ.get("CXX", "g++")
    try:
        answer = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True, timeout=30)
        return int(answer.stdout.split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0
