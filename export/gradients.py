"""Calls without gradients, which is how models are served; with them where ``forward`` itself asks for some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

_ASKED = ("does not require grad", "nference tensors cannot be saved for backward", "not have been used in the graph")
"""Parts of what PyTorch says where gradients are wanted and switched off."""


def asks_for_gradients(error: RuntimeError) -> bool:
    """Whether a call failed because gradients are switched off."""
    return any(part in str(error) for part in _ASKED)


def call(function: Callable[..., Sequence[torch.Tensor]], tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Flat outputs of flat inputs, in inference mode if the function can be called in it."""
    try:
        with torch.inference_mode():
            return function(*tensors)
    except RuntimeError as error:
        if not asks_for_gradients(error):
            raise
    return call_with_gradients(function, tensors)


def call_with_gradients(function: Callable[..., Sequence[Any]], tensors: Sequence[Any]) -> Sequence[torch.Tensor]:
    """The same where gradients can be taken, also from within inference mode; the outputs carry none."""
    with torch.inference_mode(False), torch.enable_grad():
        return [output.detach() for output in function(*[tensor.clone() for tensor in tensors])]
