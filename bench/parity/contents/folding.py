"""What exporters compute ahead from weights, recomputed: batch norms in convolutions, transposed or joined weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.parity.cases import Values
from bench.parity.contents import Difference

if TYPE_CHECKING:
    import torch

_ROUNDINGS = 8.0
"""Folding in float32 takes a handful of operations, each with one rounding."""
_SAME_FACTOR = 1e-6


@dataclass(frozen=True)
class Folded:
    """A value that exporters compute ahead from weights: what it should be, how exact, and which weights it uses up."""

    value: Values
    tolerance: Values
    uses: tuple[str, ...]
    into: str | None = None
    """The weight under whose name files hold it; None where it has a name of its own."""
    norm: str | None = None
    """The norm's weight that was folded in."""
    how: str = "folded, recomputed"
    """What is said of the weights that it uses up."""

    def difference(self, stored: Values) -> Difference | None:
        """What of ``stored`` is not as it should be; None if nothing.

        Where all values of every channel are off by one factor it is the norm that differs.
        """
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            apart = ~(np.abs(stored - self.value) <= self.tolerance)
            if not apart.any():
                return None
            largest = float(np.abs(stored - self.value).max())
            ratios = (stored / self.value).reshape(len(self.value), -1)
            factors = np.nanmedian(ratios, axis=1)
            by_channel = self.value.ndim > 1 and bool((np.abs(ratios - factors[:, None]) < _SAME_FACTOR).all())
        place = str(self.norm if by_channel else self.into)
        count = f"{int(apart.sum())} of {apart.size} values"
        return Difference(place, f"{place} differs after folding in {count}, by up to {largest:.3g}")


def used_weights(exported: torch.export.ExportedProgram) -> set[str]:
    """Names, as in the checkpoint, of the weights and buffers that an output or a changed buffer depends on."""
    inputs = _weights_by_input(exported)
    acting = [node for node in exported.graph.nodes if node.op == "call_function" and node.is_impure()]
    waiting = [exported.graph.output_node(), *acting]
    seen = set(waiting)
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    used = {node.name for node in seen}
    return {name.removeprefix("module.") for place, name in inputs.items() if place in used}


def folded_norms(exported: torch.export.ExportedProgram, weights: dict[str, Values]) -> list[Folded]:
    """For every batch norm right after a convolution or linear layer: the weight and bias that absorb it."""
    names = _weights_by_input(exported)
    folded = []
    for node in exported.graph.nodes:
        if "batch_norm" not in str(node.target) or len(node.args) < 8:
            continue
        before = node.args[0]
        if before.op != "call_function" or len(before.args) < 2 or getattr(before.args[1], "name", "") not in names:
            continue
        used = [before.args[1], before.args[2] if len(before.args) > 2 else None, *node.args[1:5]]
        keys = [names[weight.name].removeprefix("module.") if weight is not None else None for weight in used]
        kernel, bias, gamma, beta, mean, variance = (
            weights[key].astype(np.float64) if key is not None and key in weights else None for key in keys
        )
        if kernel is None or mean is None or variance is None:
            continue
        scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + node.args[7])
        shift = 0.0 if beta is None else beta
        offset = (0.0 if bias is None else bias) - mean
        uses = tuple(key for key in keys if key is not None)
        norm = keys[2] or keys[4]
        scaled = kernel * _by_channel(scale, kernel, before)
        size = np.abs(mean * scale) + np.abs(shift) + (0.0 if bias is None else np.abs(bias * scale))
        u = np.finfo(np.float32).eps / 2
        folded.append(Folded(scaled, _ROUNDINGS * u * np.abs(scaled), (*uses[:1], *uses[-4:]), keys[0], norm))
        folded.append(Folded(offset * scale + shift, _ROUNDINGS * u * size, uses[1:], keys[1], norm))
    return folded


def _by_channel(scale: Values, kernel: Values, layer: Any) -> Values:
    """The scale of each output channel, at every element of the layer's kernel.

    Transposed kernels are ``(in, out / groups, ...)``: the first ``in / groups`` rows make the first group's channels.
    """
    if "transpose" not in str(layer.target):
        return scale.reshape((-1,) + (1,) * (kernel.ndim - 1))
    groups_count = layer.args[6] if len(layer.args) > 6 else 1
    rows: Values = scale.reshape(groups_count, -1).repeat(len(kernel) // groups_count, 0)
    return rows.reshape(rows.shape + (1,) * (kernel.ndim - 2))


def cast_weights(exported: torch.export.ExportedProgram) -> list[Folded]:
    """Weights as a block under autocast uses them: an artifact may hold them cast, since every call would cast them."""
    import torch

    names = _weights_by_input(exported)
    cast = []
    for node in exported.graph.nodes:
        if node.target is not torch.ops.higher_order.wrap_with_autocast:
            continue
        _, dtype, enabled, _, _, *operands = node.args
        used = [names[operand.name] for operand in operands if enabled and getattr(operand, "name", None) in names]
        for name in used:
            value = exported.state_dict[name].detach().cpu().to(dtype).double().numpy()
            own = name.removeprefix("module.")
            cast.append(Folded(value, np.zeros_like(value), (own,), into=own))
    return cast


def folded_constants(exported: torch.export.ExportedProgram) -> list[Folded]:
    """Values that the program computes from weights and constants alone, such as a transposed or joined weight."""
    import torch

    names = _weights_by_input(exported)
    tensors = {**exported.state_dict, **exported.constants}
    values: dict[Any, Any] = {}
    uses: dict[Any, tuple[str, ...]] = {}
    folded = []
    for node in exported.graph.nodes:
        if node.name in names and names[node.name] in tensors:
            values[node] = tensors[names[node.name]].detach()
            uses[node] = (names[node.name].removeprefix("module."),)
        elif node.op == "call_function" and node.all_input_nodes and all(n in values for n in node.all_input_nodes):
            arguments = torch.fx.map_arg((node.args, node.kwargs), lambda n: values[n])
            try:
                values[node] = node.target(*arguments[0], **arguments[1])
            except Exception:  # noqa: BLE001, S112 - not a plain tensor operation: then it is not a constant we can know
                continue
            uses[node] = tuple(dict.fromkeys(name for n in node.all_input_nodes for name in uses[n]))
            if isinstance(values[node], torch.Tensor) and values[node].is_floating_point():
                value = values[node].cpu().double().numpy()
                u = np.finfo(np.float32).eps / 2
                folded.append(Folded(value, _ROUNDINGS * u * np.abs(value), uses[node]))
    return folded


def _weights_by_input(exported: torch.export.ExportedProgram) -> dict[str, str]:
    """The program's own name of every weight and buffer, by the graph's input that brings it."""
    signature = exported.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
