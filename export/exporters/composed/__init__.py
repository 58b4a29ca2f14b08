"""Operators that PyTorch's ONNX exporter has no translation for, or an inexact one, composed of those that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from export.exporters import fourier
from export.exporters.composed import distances, functions, ranks, windows

if TYPE_CHECKING:
    from torch.export import ExportedProgram

aten = torch.ops.aten
COMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.cdist.default: distances.cdist,
    aten.hypot.default: functions.hypot,
    aten.log_sigmoid.default: functions.log_sigmoid,
    aten.log1p.default: functions.log1p,
    aten.expm1.default: functions.expm1,
    aten.atan2.default: functions.atan2,
    aten.copysign.Tensor: functions.copysign,
    aten.copysign.Scalar: functions.copysign_of_number,
    aten.fmax.default: functions.fmax,
    aten.fmin.default: functions.fmin,
    aten.aminmax.default: ranks.aminmax,
    aten.masked_select.default: ranks.masked_select,
    aten.cummax.default: ranks.cummax,
    aten.cummin.default: ranks.cummin,
    aten.cumprod.default: ranks.cumprod,
    aten.median.dim: ranks.median,
    aten.median.default: ranks.median_of_all,
    aten.kthvalue.default: ranks.kthvalue,
    aten.rrelu.default: functions.rrelu,
    aten.adaptive_max_pool1d.default: windows.adaptive_max,
    aten.adaptive_max_pool2d.default: windows.adaptive_max,
    aten.adaptive_max_pool3d.default: windows.adaptive_max,
    aten.adaptive_avg_pool3d.default: windows.adaptive_mean,
    aten.scaled_dot_product_attention.default: windows.attention_of_one_head,
}
"""By operator of a traced program."""
_OF_COMPLEX: dict[Any, Callable[..., Any]] = {aten.abs.default: functions.magnitude}
"""Those of complex numbers, of which the same operators of real ones stay."""


def composed(program: ExportedProgram, *, powers_too: bool = False) -> ExportedProgram:
    """The program with the operators of ``COMPOSITIONS`` as others, and short Fourier transforms as products; the same
    one where it has none. ``powers_too`` is what it is of ``with_matrices``.
    """
    program = fourier.with_matrices(program, powers_too=powers_too)
    named = fourier.operators(program)
    table = COMPOSITIONS | (_OF_COMPLEX if _has_complex(program) else {})
    return program.run_decompositions(table) if any(each._opname in named for each in table) else program


def _has_complex(program: ExportedProgram) -> bool:
    values = [node.meta.get("val") for node in program.graph.nodes]
    return any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)
