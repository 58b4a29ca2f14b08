"""An ONNX file read without running it: its tensors by name, what its nodes say of themselves and their origin."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.contents import Contents, Setting, spell
from export.exporters.onnx_quantized import read_quantized, unequal_pairs

_ATTRIBUTES: dict[str, tuple[str, dict[str, str]]] = {
    "LayerNormalization": ("layer_norm", {"epsilon": "eps"}),
    "BatchNormalization": ("batch_norm", {"epsilon": "eps"}),
    "InstanceNormalization": ("instance_norm", {"epsilon": "eps"}),
    "GroupNormalization": ("group_norm", {"epsilon": "eps", "num_groups": "num_groups"}),
    "RMSNormalization": ("rms_norm", {"epsilon": "eps"}),
    "Gelu": ("gelu", {"approximate": "approximate"}),
    "Softmax": ("softmax", {"axis": "dim"}),
    "LogSoftmax": ("log_softmax", {"axis": "dim"}),
    "LeakyRelu": ("leaky_relu", {"alpha": "negative_slope"}),
    "Elu": ("elu", {"alpha": "alpha"}),
    "MaxPool": ("max_pool2d", {"kernel_shape": "kernel_size", "strides": "stride"}),
    "AveragePool": ("avg_pool2d", {"kernel_shape": "kernel_size", "strides": "stride"}),
}
"""ONNX's word for a watched operator, and for its settings. A convolution's kind depends on its rank: see _settings."""
_CONV = {"strides": "stride", "dilations": "dilation", "group": "groups", "pads": "padding"}


def read_contents(path: Path) -> Contents:
    """Initializers and constants by name, and the watched settings of nodes whose module the exporter recorded."""
    graph = onnx.load(str(path)).graph
    ranks = _ranks(graph)
    return Contents(
        how="ONNX file",
        weights=dict(_tensors(graph)),
        settings=tuple(setting for node in graph.node for setting in _settings(node, ranks)),
        dialect="operators",
        casts=tuple(sorted({kind for node in _all_nodes(graph) for kind in _cast(node)})),
        quantized=tuple(read_quantized(graph)),
        unequal=tuple(unequal_pairs(graph)),
    )


def note(node: onnx.NodeProto, key: str) -> str | None:
    """What PyTorch's exporter recorded of a node under ``pkg.torch.onnx.<key>``: its origin."""
    return next((entry.value for entry in node.metadata_props if entry.key == f"pkg.torch.onnx.{key}"), None)


def module_of(node: onnx.NodeProto) -> str | None:
    """The path of the user's module that a node belongs to; None if the exporter did not record it."""
    scopes = note(node, "name_scopes")
    if scopes is None:
        return None
    path = ast.literal_eval(scopes)
    return str(path[-2]).removeprefix("module.").removeprefix("module") if len(path) > 1 else ""


def _tensors(graph: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every stored tensor of a graph and of the graphs within it."""
    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield node.output[0], numpy_helper.to_array(attribute.t)
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _all_nodes(graph: Any) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def _cast(node: onnx.NodeProto) -> Iterator[str]:
    """The floating dtype that a node casts to."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            kind = helper.tensor_dtype_to_np_dtype(attribute.i)
            if "float" in kind.name:
                yield kind.name


def _ranks(graph: Any) -> dict[str, int]:
    return {
        value.name: len(value.type.tensor_type.shape.dim) for value in [*graph.input, *graph.value_info, *graph.output]
    }


def _settings(node: Any, ranks: Mapping[str, int]) -> Iterator[Setting]:
    """The watched settings of one node; nothing where the exporter did not record its module."""
    scope = module_of(node)
    rank = ranks.get(node.output[0], 0)
    kind, attributes = _ATTRIBUTES.get(node.op_type, ("", {}))
    if node.op_type == "Conv" and rank > 2:
        kind, attributes = f"conv{rank - 2}d", _CONV
    if not kind or scope is None:
        return
    if any(entry.key == "pkg.onnxscript.rewriter.rule_name" for entry in node.metadata_props):
        return  # a fused node carries the module of one of its parts
    stated = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    for name, name_in_torch in attributes.items():
        value = stated.get(name)
        if name == "pads" and value is not None:
            value = value[: len(value) // 2] if value[: len(value) // 2] == value[len(value) // 2 :] else value
        if isinstance(value, bytes):
            value = value.decode()
        if value is not None and (text := spell(kind, name_in_torch, {name_in_torch: value}, rank)) is not None:
            yield Setting(scope=scope, operator=kind, name=name_in_torch, value=text)
