"""What an artifact's files hold, read without running them: its weights, and the settings of its operators.

No test on outputs sees a batch norm whose epsilon is 10 % off, or one weight in a million that is off by a hundred
thousandth; the files show both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from export.arrays import to_numpy

if TYPE_CHECKING:
    import torch

Dialect = Literal["graph", "operators", "operators without scope", "none"]
"""How settings can be compared with the traced program's: node by node, per module and operator, or not at all."""

WATCHED: dict[str, tuple[str, ...]] = {
    "layer_norm": ("eps",),
    "batch_norm": ("eps",),
    "group_norm": ("num_groups", "eps"),
    "instance_norm": ("eps",),
    "rms_norm": ("eps",),
    "gelu": ("approximate",),
    "softmax": ("dim",),
    "log_softmax": ("dim",),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "conv1d": ("stride", "padding", "dilation", "groups"),
    "conv2d": ("stride", "padding", "dilation", "groups"),
    "conv3d": ("stride", "padding", "dilation", "groups"),
    "max_pool2d": ("kernel_size", "stride", "padding", "ceil_mode"),
    "avg_pool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
}
"""Operators of PyTorch, and those of their settings that change a model's function when an exporter gets them wrong."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of one operator."""

    scope: str
    """The path of the module that it belongs to, such as ``encoder.layers.0.norm1``; empty where it is not known."""
    operator: str
    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A stored tensor of integers as float64, and the distance of neighbours at every element."""

    name: str
    values: np.ndarray[Any, Any]
    steps: np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Weights by the names that the files give them, and settings in a dialect."""

    how: str
    """Where they were read from, in a few words."""
    weights: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()
    dialect: Dialect = "none"
    casts: tuple[str, ...] = ()
    """Floating dtypes that the files' operators cast values to, each once."""
    quantized: tuple[Quantized, ...] = ()
    unequal: tuple[str, ...] = ()
    """Values that are dequantised otherwise than they were quantised."""


def of_program(exported: torch.export.ExportedProgram, how: str) -> Contents:
    """The weights and every node of a traced program."""
    tensors = {**exported.state_dict, **exported.constants}
    return Contents(
        how=how,
        weights={name: to_numpy(tensor) for name, tensor in tensors.items() if hasattr(tensor, "detach")},
        settings=tuple(graph_settings(exported)),
        dialect="graph",
    )


def graph_settings(exported: torch.export.ExportedProgram) -> Iterator[Setting]:
    """Every operator with all its arguments."""
    for node in exported.graph.nodes:
        if node.op == "call_function":
            yield Setting(
                scope=node.name, operator=str(node.target), name="arguments", value=f"{node.args} {dict(node.kwargs)}"
            )


def operator_settings(exported: torch.export.ExportedProgram) -> Iterator[Setting]:
    """The watched settings of a traced program, by the path of the user's module."""
    for node in exported.graph.nodes:
        kind = operator_kind(str(getattr(node.target, "_opname", "")))
        if node.op != "call_function" or kind not in WATCHED:
            continue
        arguments = {
            argument.name: node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, default)
            for index, argument in enumerate(node.target._schema.arguments)
            for default in [argument.default_value if argument.has_default_value() else None]
        }
        rank = node.meta["val"].dim() if hasattr(node.meta.get("val"), "dim") else 0
        for name in WATCHED[kind]:
            value = spell(kind, name, arguments, rank)
            if value is not None:
                yield Setting(scope=scope_of(node), operator=kind, name=name, value=value)


def scope_of(node: torch.fx.Node) -> str:
    """The path of the user's module that a traced node belongs to."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).removeprefix("module.").removeprefix("module") if stack else ""


def operator_kind(name: str) -> str:
    """``native_layer_norm`` is ``layer_norm``: the same operator at another stage of lowering."""
    kind = name.removeprefix("_").removeprefix("native_")
    return "batch_norm" if "batch_norm" in kind else kind


def spell(kind: str, name: str, arguments: dict[str, Any], rank: int) -> str | None:
    """One setting as text that is equal exactly where its effect is; None if it is not stated as a constant."""
    value = arguments.get(name)
    if name == "stride" and value in (None, []):
        value = arguments.get("kernel_size")  # a pool's default
    if value is None or isinstance(value, str):
        return value
    if name == "dim":
        return str(int(value) % rank) if rank else None
    if isinstance(value, list | tuple):
        distinct = set(value)
        return str(int(value[0])) if len(distinct) == 1 else str([int(item) for item in value])
    if isinstance(value, bool):
        return str(value)
    return f"{float(np.float32(value)):.9g}" if isinstance(value, float) else str(value)
