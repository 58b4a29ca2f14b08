"""Which outputs of a traced program hang on a choice: on indices that topk, sort, argmax and others pick by scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

_PICKS = {
    "topk": 1, "sort": 1, "argsort": None, "argmax": None, "argmin": None, "max": 1, "min": 1, "median": 1,
    "kthvalue": 1,
}  # fmt: skip
"""Operators that choose, and which of their results holds the indices; None where there is one."""
_LEAST = ("argmin", "min")
_RANKS: dict[str, Callable[[dict[str, Any]], int | Literal["middle"]]] = {
    "median": lambda arguments: "middle", "kthvalue": lambda arguments: int(arguments["k"]) - 1,
}  # fmt: skip
"""Those that pick by rank, and which."""
_ALL = ("topk", "sort", "argsort")
"""Those that pick several different candidates."""
_SAME = frozenset({"to", "_to_copy", "clone", "contiguous", "alias", "detach"})
"""Operators after which every index is where it was."""
_MOVING = _SAME | {
    "view", "reshape", "permute", "transpose", "t", "flatten", "unsqueeze", "squeeze", "expand", "slice", "select",
    "narrow", "roll", "flip",
}  # fmt: skip
"""Operators after which every index is still an index into the same scores, elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One operator that chooses, by the names of nodes in ``exported.module()``."""

    scores: str
    """What is chosen among."""
    dim: int | None
    """The dimension that indices go along; None: through all elements."""
    largest: bool
    """Whether the largest come first; else the least."""
    rank: int | Literal["middle"] | None
    """Which is picked, from below, counted from 0; None: the first."""
    several: bool
    """Whether different candidates are picked; else one."""
    ordered: bool
    """Whether they come by rank; else in any order."""
    stable: bool
    """Whether equals are promised to stay in their order."""
    index: str
    """The indices that are picked."""
    places: tuple[str, ...]
    """What moves or casts them, in the graph's order."""
    indices: tuple[tuple[int, str], ...]
    """Numbers of the outputs that are these indices, each with the node that it is."""
    dependent: tuple[int, ...]
    """Numbers of the other outputs that are computed from them."""


def choices(graph: torch.fx.Graph) -> tuple[Choice, ...]:
    """The choices that outputs depend on."""
    outputs = pytree.tree_leaves(graph.output_node().args[0])
    made = (_choice(node, index, outputs) for node in graph.nodes for index in _indices(node))
    return tuple(choice for choice in made if choice is not None and (choice.indices or choice.dependent))


def moved(node: torch.fx.Node, places: torch.Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """What lies where after the node, one of a choice's ``places``, given what lay where before it."""
    if _kind(node) in _SAME:
        return places
    result: torch.Tensor = node.target(places, *args[1:], **kwargs)  # type: ignore[operator]
    return result


def _kind(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "_opname", ""))


def _indices(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    """The nodes that hold the indices that a node picks."""
    kind = _kind(node)
    if node.op != "call_function" or kind not in _PICKS:
        return
    if kind in ("max", "min", "median") and getattr(node.target, "_overloadname", "") != "dim":
        return
    item = _PICKS[kind]
    if item is None:
        yield node
    else:
        yield from (user for user in node.users if user.op == "call_function" and user.args[1:] == (item,))


def _choice(node: torch.fx.Node, index: torch.fx.Node, outputs: list[Any]) -> Choice | None:
    arguments = _arguments(node)
    if not isinstance(arguments["self"], torch.fx.Node):
        return None
    kind = _kind(node)
    places, reached = {index: None}, {index: None}
    for later in index.graph.nodes:  # in their order: what a node takes comes before it
        taken = [user for user in later.all_input_nodes if user in reached]
        if later.op == "output" or not taken:
            continue
        reached[later] = None
        if _kind(later) in _MOVING and taken == list(later.args[:1]) and taken[0] in places and not _floating(later):
            places[later] = None
    return Choice(
        scores=arguments["self"].name,
        dim=arguments["dim"],
        largest=bool(arguments.get("largest", arguments.get("descending", kind not in _LEAST))),
        rank=_RANKS[kind](arguments) if kind in _RANKS else None,
        several=kind in _ALL,
        ordered=bool(arguments.get("sorted", True)),
        stable=bool(arguments.get("stable")),
        index=index.name,
        places=tuple(place.name for place in places if place is not index),
        indices=tuple((number, output.name) for number, output in enumerate(outputs) if output in places),
        dependent=tuple(number for number, output in enumerate(outputs) if output in reached and output not in places),
    )


def _floating(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _arguments(node: torch.fx.Node) -> dict[str, Any]:
    """Every argument of an operator by its name, with what is not given at its default."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    given = zip((argument.name for argument in schema), node.args, strict=False)
    return {**defaults, **dict(given), **node.kwargs}
