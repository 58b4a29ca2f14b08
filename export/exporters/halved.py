"""A traced program in half precision: its weights, and what its operators take and return.

The dtype stands in the graph, where no runtime can drop it as it may drop a flag, and every exporter that takes a
program takes this one. Inputs and outputs keep their dtypes by casts at the border. What half precision cannot hold
(export/taps/ranges.py) stays in float32 with the operators that read it; so does what is made of no float32 at all
(``arange``), complex numbers, the blocks of control flow, and an operator that refuses the dtype.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx import Node
from torch.utils import _pytree as pytree

from export.open_layers import RECURRENT, open_program

_CAST = torch.ops.aten._to_copy.default


@dataclass(frozen=True, kw_only=True)
class Halved:
    """What became of a program."""

    narrowed_count: int
    """Operators that compute in half precision."""
    kept: tuple[str, ...]
    """Nodes that compute in float32 though they take it: those that were asked for, and their readers."""
    kept_weights: tuple[str, ...]
    """Weights that are still in float32, by the program's names."""


def functional(exported: ExportedProgram) -> ExportedProgram:
    """The program without operators that write into their inputs: a cast would give them a copy to write into."""
    with open_program(exported):
        changed: ExportedProgram = exported.run_decompositions({})
    changed._constants = dict(changed.constants)  # PyTorch hands on the same, and rewriting would alter both programs
    return changed


def halve(exported: ExportedProgram, half: torch.dtype, outside: Collection[str]) -> Halved:
    """Rewrite a functional program in place.

    Args:
        exported: Its float32 becomes ``half``, other dtypes stay.
        half: ``torch.float16`` or ``torch.bfloat16``.
        outside: Nodes (also inputs and weights) whose values ``half`` cannot hold.
    """
    rewriting = _Rewriting(exported, half, outside)
    for node in list(exported.graph.nodes):
        rewriting.rewrite(node)
    kept_weights = tuple(rewriting.store_weights())
    for spec, value in zip(exported.graph_signature.output_specs, exported.graph.output_node().args[0], strict=True):
        if isinstance(value, Node) and isinstance(spec.arg, TensorArgument):
            spec.arg = TensorArgument(name=value.name)
    exported.graph.lint()
    exported.graph_module.recompile()
    return Halved(narrowed_count=rewriting.narrowed_count, kept=tuple(rewriting.kept), kept_weights=kept_weights)


class _Rewriting:
    """One program's rewriting, node by node in the graph's order."""

    def __init__(self, exported: ExportedProgram, half: torch.dtype, outside: Collection[str]) -> None:
        self._exported, self._half, self._outside = exported, half, outside
        self._single: set[Node] = set()
        """Nodes whose value the program has in float32."""
        self._casts: dict[tuple[Node, torch.dtype], Node] = {}
        self._last_placeholder = [node for node in exported.graph.nodes if node.op == "placeholder"][-1]
        self._fake = torch._guards.detect_fake_mode([node.meta.get("val") for node in exported.graph.nodes])
        self.narrowed_count = 0
        self.kept: list[str] = []

    def rewrite(self, node: Node) -> None:
        """One node, its inputs done already."""
        if _is_single(node.meta.get("val")):
            self._single.add(node)
        if node.op == "output":
            self._keep(node)
        elif node.op == "call_function" and node.target is operator.getitem:
            node.meta["val"] = node.args[0].meta["val"][node.args[1]]  # type: ignore[union-attr]
        elif node.op == "call_function" and _asks_for_sizes(node):
            pass  # of whatever dtype
        elif node.op == "call_function" and self._narrows(node):
            self.narrowed_count += 1
        elif node.op == "call_function":
            if any(source in self._single for source in node.all_input_nodes):
                self.kept.append(node.name)
            self._keep(node)

    def store_weights(self) -> Iterator[str]:
        """Give weights the dtype in which they are read; yields the names of those that stay in float32."""
        signature = self._exported.graph_signature
        held = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        written = {spec.target for spec in signature.output_specs if spec.target is not None}
        narrowed: dict[int, torch.Tensor] = {}
        for node in [node for node in self._exported.graph.nodes if node.name in held and node in self._single]:
            name, cast = held[node.name], self._casts.pop((node, self._half), None)
            if cast is None or name in written:
                if node.users:
                    yield name
                continue
            tensors = self._exported.state_dict if name in self._exported.state_dict else self._exported.constants
            tensor = tensors[name]
            tensors[name] = narrowed.setdefault(id(tensor), _converted(tensor, self._half))
            wide_readers = [user for user in node.users if user is not cast]
            cast.replace_all_uses_with(node)
            self._exported.graph.erase_node(cast)
            node.meta["val"] = self._cast(node.meta["val"], self._half)
            for reader in wide_readers:
                reader.replace_input_with(node, self._in(node, torch.float32))

    def _narrows(self, node: Node) -> bool:
        """Whether the node computes in half precision from now on; it is as it was where not."""
        sources = [source for source in node.all_input_nodes if source in self._single]
        results = [node.name, *(user.name for user in node.users if user.target is operator.getitem)]
        if not sources or not isinstance(node.target, torch._ops.OpOverload):
            return False
        if any(name in self._outside for name in (*results, *(source.name for source in sources))):
            return False
        values = [node.meta.get("val"), *(source.meta.get("val") for source in node.all_input_nodes)]
        if any(isinstance(value, torch.Tensor) and value.is_complex() for value in pytree.tree_leaves(values)):
            return False
        given = torch.fx.map_arg(
            (node.args, node.kwargs), lambda source: self._faked(source) if source in self._single else _value(source)
        )
        args, kwargs = pytree.tree_map(self._narrower, given)
        try:
            with self._faking():
                is_recurrent = node.target in RECURRENT
                answered = self._all_half(node.meta["val"]) if is_recurrent else node.target(*args, **kwargs)
        except (RuntimeError, NotImplementedError, TypeError):  # an operator that has no such form
            return False
        changed = torch.fx.map_arg(
            (node.args, node.kwargs), lambda source: self._in(source, self._half) if source in self._single else source
        )
        node.args, node.kwargs = pytree.tree_map(self._narrower, changed)
        self._take_dtypes(node, answered)
        return True

    def _keep(self, node: Node) -> None:
        """Let the node read float32, as the program has it."""

        def wide(source: Node) -> Node:
            return self._in(source, torch.float32) if source in self._single else source

        node.args, node.kwargs = torch.fx.map_arg((node.args, node.kwargs), wide)

    def _in(self, source: Node, dtype: torch.dtype) -> Node:
        """The value in that dtype: itself, or one cast for all readers."""
        if source.meta["val"].dtype == dtype:
            return source
        if (source, dtype) not in self._casts:
            after = self._last_placeholder if source.op == "placeholder" else source
            with self._exported.graph.inserting_after(after):
                cast = self._exported.graph.call_function(_CAST, (source,), {"dtype": dtype})
            cast.meta = {key: value for key, value in source.meta.items() if key in ("nn_module_stack", "stack_trace")}
            cast.meta["val"] = self._cast(source.meta["val"], dtype)
            self._casts[source, dtype] = cast
        return self._casts[source, dtype]

    def _faked(self, source: Node) -> Any:
        return self._cast(source.meta["val"], self._half)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        with self._faking():
            return value.detach().to(dtype)

    @contextmanager
    def _faking(self) -> Iterator[None]:
        """Shapes and dtypes are computed, and nothing is concluded about sizes that the program leaves open."""
        assert self._fake is not None
        sizes = self._fake.shape_env
        assert sizes is not None
        with self._fake, sizes.suppress_guards(), sizes.ignore_fresh_unbacked_symbols():
            yield

    def _all_half(self, values: Any) -> Any:
        """What a recurrent layer answers; asked for it with open sizes, PyTorch's own raises in bfloat16."""
        return pytree.tree_map(lambda value: value.to(self._half), values)

    def _narrower(self, value: Any) -> Any:
        return self._half if value is torch.float32 else value

    def _take_dtypes(self, node: Node, seen: Any) -> None:
        """The node's own sizes, with the dtypes that it answers in now."""
        before, now = pytree.tree_leaves(node.meta.get("val")), pytree.tree_leaves(seen)
        leaves = [
            self._cast(old, new.dtype) if isinstance(new, torch.Tensor) and old.dtype != new.dtype else old
            for old, new in zip(before, now, strict=True)
        ]
        node.meta["val"] = pytree.tree_unflatten(leaves, pytree.tree_structure(node.meta.get("val")))


def _asks_for_sizes(node: Node) -> bool:
    return not any(isinstance(value, torch.Tensor) for value in pytree.tree_leaves(node.meta.get("val")))


def _is_single(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _value(node: Node) -> Any:
    return node.meta["val"]


def _converted(tensor: torch.Tensor, half: torch.dtype) -> torch.Tensor:
    narrow = tensor.detach().to(half)
    return torch.nn.Parameter(narrow, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else narrow
