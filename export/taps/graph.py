"""The inside of an exported program other than the traced one: matched with it by name, module and operator."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from export.arrays import to_numpy, to_torch
from export.taps import Values
from export.taps.trace import Trace


class GraphTaps:
    """An artifact's own program; its nodes are known by the traced program's names where both agree on them."""

    def __init__(self, exported: torch.export.ExportedProgram, trace: Trace) -> None:
        self._own = Trace(exported)
        ends = dict(zip(self._own.outputs, trace.outputs, strict=False))
        self.names: dict[str, str] = {}
        """By the program's name of a value: the artifact's."""
        for own_name in self._own.nodes:
            name = ends.get(own_name, own_name)
            if name in trace.nodes and trace.is_tensor(name) and self._alike(trace, name, own_name, own_name in ends):
                self.names[name] = own_name
        self._program_names = {own_name: name for name, own_name in self.names.items()}
        self._program_names |= dict(zip(self._own.inputs, trace.inputs, strict=True))

    def run(self, inputs: Mapping[str, Values]) -> dict[str, Values]:
        """Every matched value of one run in float32, by the program's name; ``inputs`` in the program's order."""
        self._own.bind([to_torch(array) for array in inputs.values()])
        values = self._own.narrow()
        return {name: to_numpy(values[own_name]) for name, own_name in self.names.items()}

    def given(self, name: str) -> list[str]:
        """The program's names of the matched values and inputs that a value is computed from."""
        return [self._program_names[source] for source in self._frontier(self.names[name])]

    def local(self, name: str, given: Mapping[str, Values]) -> Values:
        """One value, computed by the artifact's own nodes and weights from ``given`` ones."""
        own_name = self.names[name]
        feeds = {source: to_torch(given[self._program_names[source]]) for source in self._frontier(own_name)}
        return to_numpy(self._own.from_given(own_name, feeds))

    def modules(self, name: str) -> list[str]:
        """The modules of the artifact's own nodes that compute a value."""
        own_name = self.names[name]
        return [self._own.scope(node) for node in self._own.between(own_name, self._frontier(own_name))]

    def operator(self, name: str) -> str:
        """The artifact's operator that computes a value."""
        return self._own.operator(self.names[name])

    def _frontier(self, own_name: str) -> list[str]:
        matched = set(self._program_names)
        frontier: dict[str, None] = {}
        seen, waiting = {own_name}, [self._own.nodes[own_name]]
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source.name in matched:
                    frontier[source.name] = None
                elif source.name in self._own.nodes and source.name not in seen:
                    seen.add(source.name)
                    waiting.append(source)
        return list(frontier)

    def _alike(self, trace: Trace, name: str, own_name: str, output: bool) -> bool:
        return output or (
            trace.scope(name) == self._own.scope(own_name) and trace.operator(name) == self._own.operator(own_name)
        )
