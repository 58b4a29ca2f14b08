"""PyTorch's own layers in forms that ``torch.export`` can trace, though not in those in which they come.

An LSTM or GRU is unrolled while it is traced, which fixes its number of steps; traced as a loop it leaves the number
open, and the program still holds the layer itself. A transformer looks into a mask to see whether it is causal, which
no tracer can follow; a mask that is not looked into is applied as it is, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from torch import Tensor, nn, ops
from torch.export import ExportedProgram

_RECURRENT = (ops.aten.lstm.input, ops.aten.gru.input)


def open_length(exported: ExportedProgram) -> str | None:
    """The recurrent layer of the program whose number of steps is open; None if there is none."""
    for node in exported.graph.nodes:
        if node.target in _RECURRENT:
            x, batch_first = node.args[0].meta["val"], node.args[-1]
            if not isinstance(x.shape[1 if batch_first else 0], int):
                return str(node.target)
    return None


@contextmanager
def open_program(exported: ExportedProgram) -> Iterator[None]:
    """While a program is decomposed, what its recurrent layers answer keeps its open length."""
    with nullcontext() if open_length(exported) is None else _loops():
        yield


@contextmanager
def open_layers(module: nn.Module) -> Iterator[None]:
    """While ``module`` is traced, its layers are left open."""
    with ExitStack() as stack:
        if any(isinstance(layer, nn.LSTM | nn.GRU) for layer in module.modules()):
            stack.enter_context(_loops())
        if any(isinstance(layer, nn.TransformerEncoder | nn.TransformerDecoder) for layer in module.modules()):
            stack.enter_context(_masks_as_they_are())
        yield


@contextmanager
def _loops() -> Iterator[None]:
    from torch.export._patches import register_gru_while_loop_decomposition, register_lstm_while_loop_decomposition

    with _dispatched_anew(), register_lstm_while_loop_decomposition(), register_gru_while_loop_decomposition():
        yield


@contextmanager
def _dispatched_anew() -> Iterator[None]:
    """PyTorch remembers which kernel an operator has, also when another is registered."""
    kernels = [getattr(operator, "_dispatch_cache", {}) for operator in _RECURRENT]
    for remembered in kernels:
        remembered.clear()
    try:
        yield
    finally:
        for remembered in kernels:
            remembered.clear()


@contextmanager
def _masks_as_they_are() -> Iterator[None]:
    from torch.nn.modules import transformer

    look = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = _said_to_be_causal
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = look


def _said_to_be_causal(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    return is_causal is True
