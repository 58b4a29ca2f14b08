"""A program under ``torch.compile``: it is traced when it is called, and compiled anew where a guard asks for it.

Every graph that the sizes of a signature can ask for is compiled beforehand, so that Inductor's cache holds them all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.arrays import Array, to_torch
from export.device import Device

if TYPE_CHECKING:
    import torch

    from export.program import FlatCall
    from export.signature import Signature

_LADDER_TOP = 1024
_SLOW_CALL_S = 1.0


def build(exported: torch.export.ExportedProgram, signature: Signature, where: Device, file: Path) -> str:
    """Compile; the sizes at which that happened, as JSON. ``file`` is for their calls, where a function draws them."""
    compiled_at = _climb(_Compiled(exported, where), signature)
    if signature.has_draw_functions:
        from safetensors.torch import save_file

        calls = enumerate(signature.example(sizes, seed=0) for sizes in compiled_at)
        save_file({f"{number}.{name}": to_torch(array) for number, call in calls for name, array in call.items()}, file)
    return json.dumps(compiled_at)


def examples(signature: Signature, compiled_at: str, file: Path) -> Iterator[Mapping[str, Array]]:
    """A call at each of the sizes that ``build`` returned: as it was kept, where a function drew it."""
    several = json.loads(compiled_at)
    if not signature.has_draw_functions:
        yield from (signature.example(sizes, seed=0) for sizes in several)
        return
    from safetensors.numpy import load_file  # as calls come: PyTorch's guards would not outlive tensors of its own

    kept = load_file(file)
    for number in range(len(several)):
        yield {spec.name: kept[f"{number}.{spec.name}"] for spec in signature.inputs}


def load(exported: torch.export.ExportedProgram, where: Device, calls: Iterable[Mapping[str, Array]]) -> FlatCall:
    """The compiled program, called once at every size that it was compiled for."""
    compiled = _Compiled(exported, where)
    for call in calls:
        compiled.compiles_at(call)
    return compiled.call


def counter(group: str, name: str) -> int:
    """What PyTorch counted in this process: ``stats``, ``unique_graphs``."""
    from torch._dynamo.utils import counters

    return int(counters[group][name])


class _Compiled:
    """The program under ``torch.compile``."""

    def __init__(self, exported: Any, where: Device) -> None:
        import torch

        from export.program import flat_call, on_device

        self.call: FlatCall = torch.compile(flat_call(on_device(exported, where)), fullgraph=True, dynamic=True)
        self._device = where

    def compiles_at(self, example: Mapping[str, Array]) -> bool:
        """Call once with inputs of some sizes; whether PyTorch compiled (or took from its cache) another graph."""
        import torch

        from export.program import quiet

        before = counter("stats", "unique_graphs")
        with torch.inference_mode(), quiet():
            self.call(*[to_torch(array, self._device) for array in example.values()])
        return counter("stats", "unique_graphs") > before


def _climb(compiled: _Compiled, signature: Signature) -> list[dict[str, int]]:
    """Sizes at which PyTorch compiles anew: the example's, 1 and powers of two for each symbol, 1 for several at once.

    PyTorch specialises on 1, and its kernels choose by size: a convolution on the CPU by whether rows exceed 15. A
    symbol's ladder ends at ``_LADDER_TOP``, or where a call gets slow; the witness reports a graph that is compiled
    later, while running.
    """
    example = signature.example_sizes()
    sizes = [example]
    compiled.compiles_at(signature.example(example, seed=0))
    for name, bounds in signature.ranges.items():
        for size in (1 << power for power in range(_LADDER_TOP.bit_length())):
            if size not in bounds:
                continue
            started = time.monotonic()
            if compiled.compiles_at(signature.example(example | {name: size}, seed=0)):
                sizes.append(example | {name: size})
            elif time.monotonic() - started > _SLOW_CALL_S:
                break
    for together in signature.ones(example):
        if together not in sizes and compiled.compiles_at(signature.example(together, seed=0)):
            sizes.append(together)
    return sizes
