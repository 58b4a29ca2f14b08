"""A program under ``torch.compile``: it is traced when it is called, and compiled anew where a guard asks for it.

Every graph that the sizes of a signature can ask for is compiled beforehand, so that Inductor's cache holds them all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from export.arrays import to_torch
from export.device import Device

if TYPE_CHECKING:
    import torch

    from export.signature import Signature

Call = Callable[..., Sequence["torch.Tensor"]]
_LADDER_TOP = 1024
_SLOW_CALL_S = 1.0


def build(exported: torch.export.ExportedProgram, signature: Signature, where: Device) -> str:
    """Compile; the sizes at which PyTorch compiled, as JSON, which ``load`` takes."""
    return json.dumps(_climb(_Compiled(exported, signature, where), signature))


def load(exported: torch.export.ExportedProgram, signature: Signature, where: Device, compiled_at: str) -> Call:
    """The compiled program, called once at every size that it was compiled for."""
    compiled = _Compiled(exported, signature, where)
    for sizes in json.loads(compiled_at):
        compiled.compiles_at(sizes)
    return compiled.call


def counter(group: str, name: str) -> int:
    """What PyTorch counted in this process: ``stats``, ``unique_graphs``."""
    from torch._dynamo.utils import counters

    return int(counters[group][name])


class _Compiled:
    """The program under ``torch.compile``."""

    def __init__(self, exported: Any, signature: Signature, where: Device) -> None:
        import torch

        from export.program import flat_call, on_device

        self.call: Call = torch.compile(flat_call(on_device(exported, where)), fullgraph=True, dynamic=True)
        self._signature = signature
        self._device = where

    def compiles_at(self, sizes: dict[str, int]) -> bool:
        """Call once at ``sizes``; whether PyTorch compiled (or took from its cache) another graph for it."""
        import torch

        from export.program import quiet

        before = counter("stats", "unique_graphs")
        example = self._signature.example(sizes, seed=0)
        with torch.inference_mode(), quiet():
            self.call(*[to_torch(array, self._device) for array in example.values()])
        return counter("stats", "unique_graphs") > before


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
