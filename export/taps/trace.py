"""The traced program, evaluated node by node in float64 and float32: what an artifact's values are held to."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from export.contents import scope_of
from export.float64 import float64_dtype, to_float64

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \w+\n\s*([^\n]*)')
_NOT_THE_USERS = re.compile(r"(^|/)(torch|site-packages)/|(^|/)export/program\.py$")


class Trace:
    """One program on one set of inputs. ``nodes`` are its computing nodes in order; values are tensors by node name."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        self._exported = exported
        signature = exported.graph_signature
        weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        tensors = {**exported.state_dict, **exported.constants}
        self.nodes: dict[str, torch.fx.Node] = {}
        self.weights: dict[str, Any] = {}
        """Weights, buffers and constants by the name of their node, as the program holds them."""
        self.weight_users: dict[str, str] = {}
        """By the checkpoint's name of a weight: the first node that uses it."""
        for node in exported.graph.nodes:
            if node.op == "placeholder":
                held = weights.get(node.name) or signature.inputs_to_lifted_tensor_constants.get(node.name)
                if held is not None and held in tensors:
                    self.weights[node.name] = tensors[held].detach()
                    if node.users:
                        self.weight_users[held.removeprefix("module.")] = next(iter(node.users)).name
            elif node.op == "call_function":
                self.nodes[node.name] = node
        self.inputs = tuple(signature.user_inputs)
        self.outputs = tuple(getattr(output, "name", "") for output in exported.graph.output_node().args[0])
        self.values: dict[str, Any] = {}
        self._inputs: dict[str, Any] = {}

    def run(self, inputs: Sequence[torch.Tensor]) -> None:
        """Compute every value in float64, from inputs in the program's order."""
        self.bind(inputs)
        self.values = self._evaluate(self.nodes, {}, wide=True)

    def bind(self, inputs: Sequence[torch.Tensor]) -> None:
        """Take inputs, compute nothing yet."""
        self._inputs = dict(zip(self.inputs, inputs, strict=True))

    def narrow(self) -> dict[str, Any]:
        """Every value as the program itself computes it."""
        return self._evaluate(self.nodes, {}, wide=False)

    def from_given(self, name: str, feeds: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One value as the program itself computes it from the given ones."""
        value: torch.Tensor = self._evaluate(self._needed(name, feeds), feeds, wide=False)[name]
        return value

    def local(self, name: str, given: Iterable[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """One value computed from the rounded truth of ``given`` values alone: in float64, and in eager float32."""
        feeds = {source: self.rounded(source) for source in given}
        wanted = self._needed(name, feeds)
        truth = self._evaluate(wanted, {source: to_float64(value) for source, value in feeds.items()}, wide=True)
        eager = self._evaluate(wanted, feeds, wide=False)
        return truth[name], eager[name]

    def rounded(self, name: str) -> torch.Tensor:
        """The truth of a value, in the dtype that the program has it in; of an input, itself."""
        if name in self._inputs:
            given: torch.Tensor = self._inputs[name]
            return given
        value: torch.Tensor = self.values[name]
        rounded: torch.Tensor = value.to(self.nodes[name].meta["val"].dtype)
        return rounded

    def is_tensor(self, name: str) -> bool:
        """Whether a node computes a single tensor."""
        return isinstance(self.values.get(name), torch.Tensor)

    def between(self, name: str, given: Iterable[str]) -> list[str]:
        """The nodes that compute a value from the given ones, itself left out."""
        return self._needed(name, dict.fromkeys(given))[:-1]

    def scope(self, name: str) -> str:
        """The path of the user's module that a node belongs to."""
        return scope_of(self.nodes[name])

    def operator(self, name: str) -> str:
        """``aten.linear.default``; of one of several results, what computed them."""
        node = self.nodes[name]
        if node.target is operator.getitem:
            node = node.all_input_nodes[0]
        return str(node.target)

    def line(self, name: str) -> str:
        """``models.py:34: logits = self.head(x)``: the innermost line of the user's own code."""
        frames = _FRAME.findall(self.nodes[name].meta.get("stack_trace") or "")
        own = [frame for frame in frames if not _NOT_THE_USERS.search(frame[0])] or frames
        if not own:
            return "no source line was recorded"
        path, number, code = own[-1]
        return f"{path}:{number}: {code.strip()}"

    def _needed(self, name: str, given: Mapping[str, Any]) -> list[str]:
        """The nodes between the given values and the named one, in order."""
        wanted, waiting = {name}, [self.nodes[name]]
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source.name in self.nodes and source.name not in wanted and source.name not in given:
                    wanted.add(source.name)
                    waiting.append(source)
        return [node for node in self.nodes if node in wanted]

    def _evaluate(self, names: Iterable[str], given: Mapping[str, Any], *, wide: bool) -> dict[str, Any]:
        values: dict[str, Any] = {**given}

        def value(node: torch.fx.Node) -> Any:
            if node.name in values:
                return values[node.name]
            if node.op == "get_attr":
                stored = operator.attrgetter(str(node.target))(self._exported.graph_module)
            else:
                stored = self.weights[node.name] if node.name in self.weights else self._inputs[node.name]
            return to_float64(stored) if wide else stored

        with torch.inference_mode():
            for name in names:
                node = self.nodes[name]
                args, kwargs = torch.fx.map_arg((node.args, node.kwargs), value)
                if wide:
                    args, kwargs = torch.utils._pytree.tree_map(float64_dtype, (args, kwargs))
                values[name] = node.target(*args, **kwargs)  # type: ignore[operator]
        return values
