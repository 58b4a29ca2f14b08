"""``torch.compile`` of the exported program, with Inductor's cache beside it, so that a fresh process compiles nothing.

``torch.compiler.save_cache_artifacts`` holds the graphs but, on the CPU, not the C++ objects: measured, a fresh process
that loads it starts the compiler once per kernel. The cache file is therefore Inductor's whole cache folder as a tar.
It holds pickles and shared libraries, so it is unpacked only after the artifact's hashes verified.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.arrays import to_torch
from export.backend import TorchLoaded, Witness
from export.environment import missing_compiler
from export.inductor import prepare

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact
    from export.backend import BuildInput, Loaded, LoadOptions
    from export.signature import Signature

SOURCE_FREE = True
DEVICE_BOUND = True
NEEDS_PROGRAM = True
PACKAGES = ("torch",)
FILE = "model.pt2"
CACHE = "cache.tar"


def unavailable(device: str) -> str | None:
    """Inductor needs a C++ compiler for the CPU."""
    return missing_compiler() if device == "cpu" else None


def build(source: BuildInput, folder: Path) -> dict[str, str]:
    """Compile in an empty cache, for many rows and for one (PyTorch specialises on 1), and keep the cache."""
    from export.program import load_exported

    shutil.copyfile(source.program_file, folder / FILE)
    with tempfile.TemporaryDirectory(prefix="torchstone-compile-") as cache:
        prepare(Path(cache))
        _compiled(load_exported(folder / FILE), source.signature, source.device, source.seed)
        objects = _objects(Path(cache))
        with tarfile.open(folder / CACHE, "w") as archive:
            archive.add(cache, arcname=".", filter=_worth_keeping)
    return {"form": "torch.compile with its cache", "objects_in_cache": str(len(objects))}


def load(artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
    """Unpack the cache into a folder of this process, compile from it, and call every specialisation once."""
    import torch

    from export.program import load_exported

    torch.set_num_threads(options.threads_count)
    cache = Path(tempfile.mkdtemp(prefix="torchstone-cache-"))
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    with tarfile.open(folder / CACHE) as archive:
        archive.extractall(cache, filter="data")
    shipped = _objects(cache)
    prepare(cache)
    compiled = _compiled(load_exported(folder / FILE), artifact.signature, options.device, seed=0)
    graphs_count = _counter("stats", "unique_graphs")

    def witness() -> Witness:
        built_here = sorted(_objects(cache) - shipped)
        recompiled_count = _counter("stats", "unique_graphs") - graphs_count
        fallback = None
        if built_here:
            fallback = f"the cache did not hold: {len(built_here)} objects were compiled at load"
        elif recompiled_count:
            fallback = f"{recompiled_count} graphs were compiled anew while running"
        return Witness(
            device=options.device,
            precision="float32",
            evidence={
                "objects_compiled_at_load": str(len(built_here)),
                "objects_in_cache": str(len(shipped)),
                "graph_cache_hits": str(_counter("inductor", "fxgraph_cache_hit")),
                "graph_cache_misses": str(_counter("inductor", "fxgraph_cache_miss")),
                "graphs": str(graphs_count),
            },
            fallback=fallback,
        )

    return TorchLoaded(compiled, options, witness)


def _compiled(exported: Any, signature: Signature, device: str, seed: int) -> Any:
    """The compiled module, warmed up at the example's sizes and at every symbol's 1 that its range allows."""
    import torch

    from export.program import on_device, quiet

    compiled = torch.compile(on_device(exported, device).module(), fullgraph=True, dynamic=True)
    example = signature.example_sizes()
    ones = [example | {name: 1} for name, bounds in signature.ranges.items() if 1 in bounds]
    with torch.inference_mode(), quiet():
        for sizes in [example, *ones]:
            compiled(*[to_torch(array, device) for array in signature.example(sizes, seed).values()])
    return compiled


def _objects(cache: Path) -> set[str]:
    """Compiled objects in a cache folder: shared libraries, CUDA binaries."""
    return {str(path.relative_to(cache)) for suffix in ("*.so", "*.cubin") for path in cache.rglob(suffix)}


def _worth_keeping(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out lock files, and whose machine it was."""
    if member.name.endswith(".lock") or f"{os.sep}locks" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _counter(group: str, name: str) -> int:
    from torch._dynamo.utils import counters

    return int(counters[group][name])
