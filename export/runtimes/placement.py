"""Where ONNX Runtime runs each node, and whether what a GPU's session leaves to the CPU is arithmetic on sizes alone.

The CUDA provider has sizes computed on the CPU on purpose: a reshape needs them there, and a launch would cost more
than the sum. Any model with two dynamic dimensions has such nodes. What computes on values there is another matter: it
is copied to the host and back at every call, and is said.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

_SIZES_OF = frozenset({"Shape", "Size"})
_COPIES = ("MemcpyToHost", "MemcpyFromHost")
"""What the runtime itself puts between providers; it belongs to neither."""
_COMPUTES_WEIGHTS = "DequantizeLinear"
Node = tuple[str, str]
"""A node's name and operator."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What runs where."""

    nodes_count: Mapping[str, int]
    """By provider."""
    sizes: tuple[Node, ...]
    """On the CPU, of a session on another device: they compute sizes."""
    strays: tuple[Node, ...]
    """Nodes that compute on values elsewhere than asked, and copies of such values."""

    def evidence(self) -> dict[str, str]:
        """By name, for a witness."""
        nodes = {f"nodes_on_{provider}": str(count) for provider, count in sorted(self.nodes_count.items())}
        kinds = sorted({kind for _, kind in self.sizes})
        return nodes | ({"sizes_on_cpu": f"{len(self.sizes)} nodes ({', '.join(kinds)})"} if kinds else {})

    def fallback(self, wanted: str) -> str | None:
        """The sentence about strays; None if there are none."""
        if not self.strays:
            return None
        named = ", ".join(f"{name or 'unnamed'} ({kind})" for name, kind in self.strays[:3])
        more = f" and {len(self.strays) - 3} more" if len(self.strays) > 3 else ""
        return f"{len(self.strays)} nodes ran elsewhere than on {wanted}, and not on sizes alone: {named}{more}"


def placement(session: Any, wanted: str, graphs: Iterable[Any]) -> Placement:
    """Nodes by provider as the session assigned them, looked up in ``graphs``: as it runs them, and as they came.

    A node that the runtime made and no graph holds is taken for one that computes on values.
    """
    parts = session.get_provider_graph_assignment_info()
    assigned = [(part.ep_name, (node.name, node.op_type)) for part in parts for node in part.get_nodes()]
    elsewhere = [node for provider, node in assigned if provider != wanted]
    sizes: list[Node] = []
    strays: list[Node] = []
    if elsewhere:
        on_sizes, copies = _on_sizes(graphs)
        for node in elsewhere:
            (sizes if on_sizes.get(node, False) else strays).append(node)
        strays += copies
    return Placement(
        nodes_count=Counter(provider for provider, _ in assigned), sizes=tuple(sizes), strays=tuple(strays)
    )


def _on_sizes(graphs: Iterable[Any]) -> tuple[dict[Node, bool], list[Node]]:
    """For each node whether it computes on sizes alone, every one of the same name; and the copies of other values."""
    known: dict[Node, bool] = {}
    copies: list[Node] = []
    for graph in graphs:
        here: dict[Node, bool] = {}
        for node, on_sizes in _walk(graph, frozenset()):
            here[node] = here.get(node, True) and on_sizes
            if node[1] in _COPIES and not on_sizes:
                copies.append(node)
        known = here | known
    return known, copies


def _walk(graph: Any, outer: Set[str]) -> Iterator[tuple[Node, bool]]:
    """Every node with whether it computes on sizes alone, in order of execution; ``outer`` are values known around it.

    Sizes are shapes of tensors and what is computed from them and from constants which could be sizes themselves.
    """
    import onnx

    sizes = {*outer, *(tensor.name for tensor in graph.initializer if _could_be_size(tensor))}
    for node in graph.node:
        fields = {attribute.name: attribute for attribute in node.attribute}
        bodies = [field.g for field in fields.values() if field.type == onnx.AttributeProto.GRAPH]
        for body in bodies:
            yield from _walk(body, sizes)
        inputs = {name for name in node.input if name}
        if node.op_type == "Constant":
            on_sizes = "value" not in fields or _could_be_size(fields["value"].t)
        elif node.op_type in _SIZES_OF:
            on_sizes = True
        else:
            on_sizes = bool(inputs) and inputs <= sizes and not bodies and node.op_type != _COMPUTES_WEIGHTS
        if on_sizes:
            sizes.update(node.output)
        yield (node.name, node.op_type), on_sizes


def _could_be_size(tensor: Any) -> bool:
    """Whether a constant could be part of arithmetic on sizes: an integer or boolean tensor, or a single number."""
    import onnx

    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).kind
    return kind in "iub" or math.prod(tensor.dims) == 1
