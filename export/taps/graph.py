"""The inside of an exported program other than the traced one: matched with it by name, module and operator."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bench.parity.cases import Values
from export.arrays import to_numpy, to_torch
from export.taps.trace import Trace


class GraphTaps:
    """An artifact's own program; its nodes are known by the traced program's names where both agree on them."""

    def __init__(self, exported: torch.export.ExportedProgram, trace: Trace) -> None:
        self._own = Trace(exported)
        ends = dict(zip(self._own.outputs, trace.outputs, strict=False))
        self.names: dict[str, str] = {}
        """By the program's name of a value: the artifact's."""
        for name in self._own.nodes:
            ours = ends.get(name, name)
            if ours in trace.nodes and trace.is_tensor(ours) and self._alike(trace, ours, name, name in ends):
                self.names[ours] = name
        self._program_names = {theirs: ours for ours, theirs in self.names.items()}
        self._program_names |= dict(zip(self._own.inputs, trace.inputs, strict=True))

    def run(self, inputs: Mapping[str, Values]) -> dict[str, Values]:
        """Every matched value of one run in float32, by the program's name; ``inputs`` in the program's order."""
        self._own.bind([to_torch(array) for array in inputs.values()])
        values = self._own.narrow()
        return {ours: to_numpy(values[theirs]) for ours, theirs in self.names.items()}

    def given(self, name: str) -> list[str]:
        """The program's names of the matched values and inputs that a value is computed from."""
        return [self._program_names[one] for one in self._frontier(self.names[name])]

    def local(self, name: str, given: Mapping[str, Values]) -> Values:
        """One value, computed by the artifact's own nodes and weights from ``given`` ones."""
        theirs = self.names[name]
        feeds = {one: to_torch(given[self._program_names[one]]) for one in self._frontier(theirs)}
        return to_numpy(self._own.from_given(theirs, feeds))

    def modules(self, name: str) -> list[str]:
        """The modules of the artifact's own nodes that compute a value."""
        theirs = self.names[name]
        return [self._own.scope(one) for one in self._own.between(theirs, self._frontier(theirs))]

    def operator(self, name: str) -> str:
        """The artifact's operator that computes a value."""
        return self._own.operator(self.names[name])

    def _frontier(self, name: str) -> list[str]:
        matched = set(self._program_names)
        found: dict[str, None] = {}
        seen, waiting = {name}, [self._own.nodes[name]]
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source.name in matched:
                    found[source.name] = None
                elif source.name in self._own.nodes and source.name not in seen:
                    seen.add(source.name)
                    waiting.append(source)
        return list(found)

    def _alike(self, trace: Trace, ours: str, theirs: str, output: bool) -> bool:
        return output or (
            trace.scope(ours) == self._own.scope(theirs) and trace.operator(ours) == self._own.operator(theirs)
        )
