"""Kernels in double precision where those of ``onnx.reference`` round to single, fail, or take minutes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import Conv as ReferenceConv
from torch.nn import functional as F

Values = np.ndarray[Any, Any]
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _tensor(values: Values) -> torch.Tensor:
    """The same memory; a copy of weights, which the reference does not let be written."""
    return torch.from_numpy(np.require(values, requirements="W"))


class Erf(OpRun):
    """The error function; the reference's answers with the precision of a float."""

    def _run(self, x: Values) -> tuple[Values]:
        return (torch.erf(_tensor(x)).numpy(),)


class Gelu(OpRun):
    """The same of the activation that is made of it."""

    def _run(self, x: Values, approximate: str | None = None) -> tuple[Values]:
        return (F.gelu(_tensor(x), approximate=approximate or "none").numpy(),)


class GatherElements(OpRun):
    """Along an axis; the reference knows at most 64 elements."""

    def _run(self, data: Values, indices: Values, axis: int | None = None) -> tuple[Values]:
        along = axis or 0
        places = np.where(indices < 0, indices + data.shape[along], indices)
        return (np.take_along_axis(data, places, along),)


class Conv(ReferenceConv):
    """With explicit padding by PyTorch, which is faster by orders of magnitude; else as the reference does it."""

    def _run(  # type: ignore[override]  # attributes are passed by name
        self, x: Values, weight: Values, bias: Values | None = None, **attributes: Any
    ) -> tuple[Values]:
        rank = x.ndim - 2
        if attributes.get("auto_pad") not in (None, "NOTSET") or rank not in _CONVOLUTIONS:
            answer: tuple[Values] = super()._run(x, weight, bias, **attributes)  # type: ignore[no-untyped-call]
            return answer
        before_after = [*(attributes.get("pads") or [0] * (2 * rank))]
        around = [size for axis in reversed(range(rank)) for size in (before_after[axis], before_after[axis + rank])]
        result = _CONVOLUTIONS[rank](
            F.pad(_tensor(x), around),
            _tensor(weight),
            None if bias is None else _tensor(bias),
            stride=[*(attributes.get("strides") or [1] * rank)],
            dilation=[*(attributes.get("dilations") or [1] * rank)],
            groups=attributes.get("group") or 1,
        )
        return (result.numpy(),)


KERNELS = [Erf, Gelu, GatherElements, Conv]
