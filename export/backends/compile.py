"""``torch.compile`` of the exported program, with Inductor's cache beside it, so that a fresh process compiles nothing.

It is compiled standing alone where that can be done (export/exporters/standalone.py): a call then asks no guards. Else
it stays under ``torch.compile`` (export/exporters/guarded.py).

``torch.compiler.save_cache_artifacts`` holds the graphs but, on the CPU, not the C++ objects: measured, a fresh process
that loads it starts the compiler once per kernel. The cache file is therefore a tar of a folder that holds both. It
holds pickles and shared libraries, so it is unpacked only after the artifact's hashes verified.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from export.arrays import to_torch
from export.backend import BuildInput, Loaded, LoadOptions, Threads, Witness
from export.device import Device, device
from export.environment import missing_compiler, version
from export.errors import UserError
from export.exporters import guarded, standalone
from export.exporters.guarded import counter
from export.exporters.inductor import prepare
from export.runtimes.torch import TorchBackend

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.artifact import Artifact
    from export.contents import Contents
    from export.program import FlatCall
    from export.taps import Taps
    from export.taps.trace import Trace

FILE = "model.pt2"
CACHE = "cache.tar"
EXAMPLES = "examples.safetensors"
"""The calls that it was compiled at, where a function draws inputs: who loads the artifact has no such function."""
_COMPILED_AT = "compiled_at"
"""The fact that only an artifact under ``torch.compile`` has."""


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
        """Compile once for every size; where that does not answer as the program does, at each size that asks for it.

        Raises:
            UserError: a recurrent layer takes any number of steps, and each would be a graph of its own.
            NoRoadError: neither way works; the message holds both reasons.
        """
        from export.open_layers import open_length
        from export.program import flat_call, load_exported, on_device
        from export.roads import Road, first_that_works
        from export.trial import Trial

        shutil.copyfile(source.program_file, folder / FILE)
        exported, where = load_exported(folder / FILE), device(source.device)
        if (layer := open_length(exported)) is not None:
            raise UserError(
                f"torch.compile unrolls {layer}, a graph for every number of steps: give the length one size in "
                "the signature; the other backends leave it open"
            )
        with tempfile.TemporaryDirectory(prefix="torchstone-compile-") as scratch:
            # Both ways share it: a kernel that this process has is not compiled again, and would be missing in another.
            cache, kept = Path(scratch) / "cache", Path(scratch) / "kept"
            prepare(cache)
            alone = on_device(load_exported(folder / FILE), where)  # one of its own: moving changes a program in place

            def once() -> dict[str, str]:
                standalone.build(alone, cache, kept)
                return {"form": "torch.compile for every size"} | _archived(kept, folder)

            def at_each_size() -> dict[str, str]:
                compiled_at = guarded.build(exported, source.signature, where, folder / EXAMPLES)
                return {"form": "torch.compile with its cache", _COMPILED_AT: compiled_at} | _archived(cache, folder)

            def check(_: dict[str, str]) -> None:
                call = standalone.load(alone, kept)
                trial.check(lambda inputs: [output.cpu() for output in _inferred(call, inputs, where)])

            program = flat_call(exported)
            trial = Trial(lambda *tensors: tuple(program(*tensors)), source.signature, source.seed)
            roads = (Road("standalone", once), Road("torch.compile", at_each_size, trust="full"))
            taken = first_that_works(roads, check)
        return taken.built | taken.facts

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
        """Unpack the cache into a folder of this process; under ``torch.compile`` also call at every compiled size."""
        from export.program import load_exported, on_device

        where = device(options.device)
        cache = Path(tempfile.mkdtemp(prefix="torchstone-cache-"))
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
        with tarfile.open(folder / CACHE, "r:") as archive:
            archive.extractall(cache, filter="data")
        shipped = _objects(cache)
        prepare(cache, options.threads_count)
        exported = load_exported(folder / FILE)
        if (compiled_at := artifact.facts.get(_COMPILED_AT)) is not None:
            examples = guarded.examples(artifact.signature, compiled_at, folder / EXAMPLES)
            call = guarded.load(exported, where, examples)
        else:
            call = standalone.load(on_device(exported, where), cache)
        graphs_count = counter("stats", "unique_graphs")

        def witness() -> Witness:
            built_here = sorted(_objects(cache) - shipped)
            recompiled_count = counter("stats", "unique_graphs") - graphs_count
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
                    "graph_cache_hits": str(counter("inductor", "fxgraph_cache_hit")),
                    "graph_cache_misses": str(counter("inductor", "fxgraph_cache_miss")),
                    "graphs": str(graphs_count),
                },
                fallback=fallback,
            )

        return self.session(call, options, witness)


def _inferred(call: FlatCall, inputs: Sequence[torch.Tensor], where: Device) -> Sequence[torch.Tensor]:
    import torch

    with torch.inference_mode():
        return call(*[to_torch(tensor, where) for tensor in inputs])


def _archived(cache: Path, folder: Path) -> dict[str, str]:
    """Keep a cache beside the program; how many compiled objects it holds."""
    with tarfile.open(folder / CACHE, "w") as archive:
        archive.add(cache, arcname=".", filter=_worth_keeping)
    return {"objects_in_cache": str(len(_objects(cache)))}


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


BACKENDS = (Compile(name="compile"),)
