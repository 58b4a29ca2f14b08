"""``torch.compile`` of the exported program, with Inductor's cache beside it, so that a fresh process compiles nothing.

``torch.compiler.save_cache_artifacts`` holds the graphs but, on the CPU, not the C++ objects: measured, a fresh process
that loads it starts the compiler once per kernel. The cache file is therefore Inductor's whole cache folder as a tar.
It holds pickles and shared libraries, so it is unpacked only after the artifact's hashes verified.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from export.arrays import to_torch
from export.backend import BuildInput, Loaded, LoadOptions, Threads, Witness
from export.device import Device, device
from export.environment import missing_compiler, version
from export.errors import UserError
from export.exporters.inductor import prepare
from export.runtimes.torch import TorchBackend

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact
    from export.contents import Contents
    from export.signature import Signature
    from export.taps import Taps
    from export.taps.trace import Trace

FILE = "model.pt2"
CACHE = "cache.tar"
_LADDER_TOP = 1024
_SLOW_CALL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Compile(TorchBackend):
    """The program and what Inductor made of it."""

    exporter: str = "inductor"
    file: str | None = FILE
    modules: tuple[str, ...] = ("torch", "torch._dynamo", "torch._inductor.compile_fx")
    device_bound: bool = True
    threads: Threads = "build"
    build_cost: int = 140
    deployment_rank: int = 80
    compiler: Literal["onnxruntime", "inductor"] | None = "inductor"

    def unavailable(self, where: str) -> str | None:
        """Inductor compiles C++ for the CPU, and Triton a launcher in C for a GPU."""
        return missing_compiler("C" if device(where).asynchronous else "C++")

    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """Compile in an empty cache, at every size at which PyTorch compiles anew; keep the cache and those sizes.

        Raises:
            UserError: a recurrent layer takes any number of steps, and each would be a graph of its own.
        """
        from export.open_layers import open_length
        from export.program import load_exported

        shutil.copyfile(source.program_file, folder / FILE)
        with tempfile.TemporaryDirectory(prefix="torchstone-compile-") as cache:
            prepare(Path(cache))
            exported = load_exported(folder / FILE)
            if (layer := open_length(exported)) is not None:
                raise UserError(
                    f"torch.compile unrolls {layer}, a graph for every number of steps: give the length one size in "
                    "the signature; the other backends leave it open"
                )
            compiled = _Compiled(exported, source.signature, device(source.device))
            compiled_at = _climb(compiled, source.signature)
            with tarfile.open(folder / CACHE, "w") as archive:
                archive.add(cache, arcname=".", filter=_worth_keeping)
            objects_count = len(_objects(Path(cache)))
        return {
            "form": "torch.compile with its cache",
            "objects_in_cache": str(objects_count),
            "compiled_at": json.dumps(compiled_at),
        }

    def contents(self, artifact: Artifact, folder: Path) -> Contents | None:
        """The program's own weights and nodes: the cache holds kernels, no weights."""
        from export.contents import of_program
        from export.program import load_exported

        return of_program(load_exported(folder / FILE), "exported program that is compiled")

    def needs(self, artifact: Artifact, folder: Path) -> dict[str, str]:
        """The very minor version of torch."""
        return {"torch": f"=={(version('torch') or '').partition('+')[0]}"}

    def taps(self, folder: Path, trace: Trace, options: LoadOptions) -> Taps | None:
        """The artifact's own program, node by node."""
        from export.program import load_exported
        from export.taps.graph import GraphTaps

        return GraphTaps(load_exported(folder / FILE), trace)

    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """Unpack the cache into a folder of this process, and call the model at every size that was compiled for."""
        import torch

        from export.program import load_exported

        torch.set_num_threads(options.threads_count)
        cache = Path(tempfile.mkdtemp(prefix="torchstone-cache-"))
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
        with tarfile.open(folder / CACHE, "r:") as archive:
            archive.extractall(cache, filter="data")
        shipped = _objects(cache)
        prepare(cache)
        compiled = _Compiled(load_exported(folder / FILE), artifact.signature, device(options.device))
        for sizes in json.loads(artifact.facts["compiled_at"]):
            compiled.compiles_at(sizes)
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
                evidence={
                    "objects_compiled_at_load": str(len(built_here)),
                    "objects_in_cache": str(len(shipped)),
                    "graph_cache_hits": str(_counter("inductor", "fxgraph_cache_hit")),
                    "graph_cache_misses": str(_counter("inductor", "fxgraph_cache_miss")),
                    "graphs": str(graphs_count),
                },
                fallback=fallback,
            )

        return self.session(compiled.call, options, witness)


class _Compiled:
    """The program under ``torch.compile``."""

    def __init__(self, exported: Any, signature: Signature, where: Device) -> None:
        import torch

        from export.program import flat_call, on_device

        self.call = torch.compile(flat_call(on_device(exported, where)), fullgraph=True, dynamic=True)
        self._signature = signature
        self._device = where

    def compiles_at(self, sizes: dict[str, int]) -> bool:
        """Call once at ``sizes``; whether PyTorch compiled (or took from its cache) another graph for it."""
        import torch

        from export.program import quiet

        before = _counter("stats", "unique_graphs")
        example = self._signature.example(sizes, seed=0)
        with torch.inference_mode(), quiet():
            self.call(*[to_torch(array, self._device) for array in example.values()])
        return _counter("stats", "unique_graphs") > before


def _climb(compiled: _Compiled, signature: Signature) -> list[dict[str, int]]:
    """Sizes at which PyTorch compiles anew: the example's, then 1 and powers of two for one symbol at a time.

    PyTorch specialises on 1, and its kernels choose by size: a convolution on the CPU by whether rows exceed 15. A
    symbol's ladder ends at ``_LADDER_TOP``, or where a call gets slow; the witness reports a graph that is compiled
    later, while running.
    """
    example = signature.example_sizes()
    sizes = [example]
    compiled.compiles_at(example)
    for name, bounds in signature.ranges.items():
        for size in (1 << power for power in range(_LADDER_TOP.bit_length())):
            if size not in bounds:
                continue
            started = time.monotonic()
            if compiled.compiles_at(example | {name: size}):
                sizes.append(example | {name: size})
            elif time.monotonic() - started > _SLOW_CALL_S:
                break
    return sizes


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


BACKENDS = (Compile(name="compile"),)
