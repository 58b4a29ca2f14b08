"""Batch norms folded into the layers before them, in float64: exporters do it in the dtype that the weights have.

Of a program in half precision that is three roundings of every weight instead of one.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn, ops
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

_NORM = ops.aten._native_batch_norm_legit_no_training.default
_CONVOLUTIONS = (ops.aten.conv1d.default, ops.aten.conv2d.default, ops.aten.conv3d.default)
_TRANSPOSED = (
    ops.aten.conv_transpose1d.default,
    ops.aten.conv_transpose2d.input,
    ops.aten.conv_transpose3d.input,
)
_LINEAR = ops.aten.linear.default


def fold_norms(exported: ExportedProgram) -> None:
    """Fold, in place, every norm in eval mode whose layer nothing else reads, in a functional program.

    The layer's bias becomes the folded one; where it has none it takes the norm's.
    """
    for norm, layer in list(pairs(exported)):
        _fold(exported, norm, layer)
    exported.graph.lint()
    exported.graph_module.recompile()


def _fold(exported: ExportedProgram, norm: Any, layer: Any) -> None:
    held = {**exported.graph_signature.inputs_to_parameters, **exported.graph_signature.inputs_to_buffers}
    state = exported.state_dict
    own_bias = layer.args[2] if len(layer.args) > 2 else None
    weight, bias = layer.args[1], own_bias if own_bias is not None else norm.args[2]
    _, scale, shift, mean, variance, _, epsilon = norm.args
    needed = [weight, bias, mean, variance, *(node for node in (scale, shift) if node is not None)]
    if any(held.get(getattr(node, "name", "")) not in state for node in needed):
        return  # computed, or a buffer that no checkpoint holds
    if max(len(weight.users), len(bias.users)) > 1:
        return

    def wide(node: Any) -> Tensor | None:
        return None if node is None else state[held[node.name]].detach().double()

    values: list[Any] = [*map(wide, (weight, own_bias, mean, variance)), epsilon, wide(scale), wide(shift)]
    if layer.target is _LINEAR:
        folded = fuse_linear_bn_weights(*values)
    else:
        fuse = partial(fuse_conv_bn_weights, transpose=layer.target in _TRANSPOSED)
        folded = fuse(*values)
    for node, value in zip((weight, bias), folded, strict=True):
        name = held[node.name]
        state[name] = nn.Parameter(value.detach().to(state[name].dtype), requires_grad=False)
    layer.args = (*layer.args[:2], bias, *layer.args[3:])
    for result in list(norm.users):
        result.replace_all_uses_with(layer)
        exported.graph.erase_node(result)
    exported.graph.erase_node(norm)


def pairs(exported: ExportedProgram) -> Iterator[tuple[Node, Node]]:
    """Norms, and the layer that each alone reads; a linear layer only of rows, whose last dimension is the norm's.

    A transposed convolution in groups is passed over: its weight has the channels of one group alone.
    """
    for norm in exported.graph.nodes:
        if norm.target is not _NORM:
            continue
        layer = norm.args[0]
        fits = layer.target in _CONVOLUTIONS or (layer.target in _TRANSPOSED and _groups_count(layer) == 1)
        fits |= layer.target is _LINEAR and layer.meta["val"].dim() == 2
        if fits and len(layer.users) == 1 and all(_is_first(result) for result in norm.users):
            yield norm, layer


def _groups_count(transposed: Node) -> Any:
    return transposed.args[6] if len(transposed.args) > 6 else transposed.kwargs.get("groups", 1)


def _is_first(result: Node) -> bool:
    return bool(result.target is operator.getitem and result.args[1] == 0)
