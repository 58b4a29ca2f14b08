"""Weights from safetensors, which keeps tensors alone: not the versions that PyTorch's own files keep beside them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn


def take_up(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load tensors that a module of the same code wrote.

    A module may read its tensors by the version of its layout, and refuse them without one: it is this code's own.

    Raises:
        RuntimeError: the tensors are not those of this module.
    """
    state: OrderedDict[str, torch.Tensor] = OrderedDict(tensors)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state)
