"""How many bytes of its weights one call of a traced program must read, at least."""

from __future__ import annotations

from typing import Any

import torch

from export.float64 import Unguarded

_LOOKED_UP = {"embedding": 1, "index_select": 2}
"""Operators that read rows of a table, and which argument has their numbers."""
_CHOSEN = frozenset({"index", "gather", "take", "take_along_dim", "_embedding_bag"})
"""Operators that read an unknown part of what they are given: nothing of it is counted."""
_PARTS = frozenset({"slice", "select", "narrow"})
"""Operators whose result is a part of what they are given."""


class WeightsRead(Unguarded):
    """Runs a program and sums up ``bytes``: whole weights where an operator takes them whole, of tables the rows."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        super().__init__(exported.module())
        self._read: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """All weights and constants together, one that has two names counted once."""
        return sum(self._read.values())

    def run_node(self, n: torch.fx.Node) -> Any:
        """One node, and what it reads of weights."""
        value = super().run_node(n)
        for source in n.all_input_nodes:
            weight = self.env[source] if source.op == "get_attr" else None
            if isinstance(weight, torch.Tensor) and n.op == "call_function":
                before = self._read.get(weight.data_ptr(), 0)
                self._read[weight.data_ptr()] = min(weight.nbytes, before + self._bytes(n, source, weight, value))
        return value

    def _bytes(self, n: torch.fx.Node, source: torch.fx.Node, weight: torch.Tensor, value: Any) -> int:
        kind = str(getattr(n.target, "_opname", ""))
        if n.args[:1] != (source,):
            return weight.nbytes
        if kind in _LOOKED_UP:
            numbers = self.env[n.args[_LOOKED_UP[kind]]]  # type: ignore[index]
            rows = weight.shape[0 if kind == "embedding" else n.args[1]]  # type: ignore[index]
            return weight.nbytes // max(rows, 1) * int(numbers.unique().numel())
        if kind in _CHOSEN:
            return 0
        return int(value.nbytes) if kind in _PARTS else weight.nbytes
