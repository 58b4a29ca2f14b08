"""The inside of an ONNX model: every value by name, and any value computed from chosen ones alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.backend import LoadOptions
from export.exporters.onnx_file import module_of, note
from export.runtimes.onnxruntime import OnnxRuntimeOptions, open_session
from export.taps import Values
from export.taps.trace import Trace


class OnnxTaps:
    """An ONNX file whose values are matched with those of the traced program by the names that the exporter kept."""

    def __init__(self, path: Path, trace: Trace, options: LoadOptions, runtime: OnnxRuntimeOptions) -> None:
        self._model = onnx.load(str(path))
        self._options = options
        self._runtime = runtime
        graph = self._model.graph
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._order = {id(node): index for index, node in enumerate(graph.node)}
        self._inputs = [value.name for value in graph.input]
        self.names = self._match(trace)
        """By the program's name of a value: the file's."""
        self._program_names = {own_name: name for name, own_name in self.names.items()}
        self._program_names |= dict(zip(self._inputs, trace.inputs, strict=True))

    def run(self, inputs: Mapping[str, Values]) -> dict[str, Values]:
        """Every matched value of one run of the whole model, by the program's name."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        present = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.names.values() if name not in present)
        session = open_session(model.SerializeToString(), self._options, self._runtime)
        answers = session.run(list(self.names.values()), dict(inputs))
        return dict(zip(self.names, answers, strict=True))

    def given(self, name: str) -> list[str]:
        """The program's names of the matched values and inputs that a value is computed from."""
        return [self._program_names[value] for value in self._segment(name)[1]]

    def local(self, name: str, given: Mapping[str, Values]) -> Values:
        """One value, computed by the file's own nodes from ``given`` ones, which have the program's names."""
        nodes, feeds = self._segment(name)
        fed = {value: np.ascontiguousarray(given[self._program_names[value]]) for value in feeds}
        used = {value for node in nodes for value in node.input}
        graph = onnx.helper.make_graph(
            nodes,
            "segment",
            [
                onnx.helper.make_tensor_value_info(
                    value, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for value, array in fed.items()
            ],
            [onnx.ValueInfoProto(name=self.names[name])],
            [tensor for tensor in self._model.graph.initializer if tensor.name in used],
        )
        model = onnx.helper.make_model(graph, functions=self._model.functions, opset_imports=self._model.opset_import)
        model.ir_version = self._model.ir_version
        (answer,) = open_session(model.SerializeToString(), self._options, self._runtime).run([self.names[name]], fed)
        return np.asarray(answer)

    def modules(self, name: str) -> list[str]:
        """The modules that the exporter recorded for the nodes that compute a value."""
        return [scope for node in self._segment(name)[0] if (scope := module_of(node)) is not None]

    def operator(self, name: str) -> str:
        """ONNX's word for what computes a value."""
        return str(self._producers[self.names[name]].op_type)

    def _match(self, trace: Trace) -> dict[str, str]:
        """Values of the same name and module, and the outputs by their order."""
        names = {}
        ends = dict(zip((value.name for value in self._model.graph.output), trace.outputs, strict=False))
        for value, node in self._producers.items():
            name = ends.get(value, value)
            if name not in trace.nodes or not trace.is_tensor(name):
                continue
            scopes = note(node, "name_scopes")
            if value in ends or scopes is None or trace.scope(name) in scopes:
                names[name] = value
        return names

    def _segment(self, name: str) -> tuple[list[Any], list[str]]:
        """The nodes between matched values and this one, in order; and those values."""
        matched = set(self.names.values())
        wanted = self.names[name]
        nodes: dict[int, Any] = {}
        feeds: dict[str, None] = {}
        waiting = [wanted]
        while waiting:
            node = self._producers[waiting.pop()]
            if id(node) in nodes:
                continue
            nodes[id(node)] = node
            for value in _reads(node):
                if (value in matched and value != wanted) or value in self._inputs:
                    feeds[value] = None
                elif value in self._producers:
                    waiting.append(value)
        return sorted(nodes.values(), key=lambda node: self._order[id(node)]), list(feeds)


def _reads(node: Any) -> list[str]:
    """What a node reads, also from within the graphs that it holds."""
    values = [value for value in node.input if value]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            own = {value for inner in graph.node for value in inner.output}
            values += [value for inner in graph.node for value in _reads(inner) if value not in own]
    return values
