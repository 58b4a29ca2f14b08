"""PyTorch's own layers in forms that ``torch.export`` can trace, though not in those in which they come.

A recurrent layer is unrolled while it is traced, which fixes its number of steps; traced as a loop it leaves the number
open, and the program still holds the layer itself. PyTorch has such loops for LSTM and GRU; the plain one is here. A
transformer looks into a mask to see whether it is causal, which no tracer can follow; a mask that is not looked into is
applied as it is, with the same result. Distances of all pairs are computed in one way for up to 25 rows, in another for
more, and tracing fixes which; where the number is open they are left to the way that is exact for any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn, ops
from torch.export import ExportedProgram

_PLAIN = {ops.aten.rnn_tanh.input: torch.tanh, ops.aten.rnn_relu.input: torch.relu}
LSTM = "aten.lstm.input"
_MANY_ROWS = 25
"""From more rows on ``torch.cdist`` takes distances from a matrix product."""
_CDIST_MODES = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
RECURRENT = (ops.aten.lstm.input, ops.aten.gru.input, *_PLAIN)


def open_length(exported: ExportedProgram, *, besides: str = "") -> str | None:
    """The recurrent layer of the program whose number of steps is open, ``besides`` one kind; None if there is none."""
    for node in exported.graph.nodes:
        if node.target in RECURRENT and str(node.target) != besides:
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
        stack.enter_context(_distances_of_any_rows())
        if any(isinstance(layer, nn.LSTM | nn.GRU | nn.RNN) for layer in module.modules()):
            stack.enter_context(_loops())
        if any(isinstance(layer, nn.TransformerEncoder | nn.TransformerDecoder) for layer in module.modules()):
            stack.enter_context(_masks_as_they_are())
        yield


@contextmanager
def _loops() -> Iterator[None]:
    from torch.export import _patches

    with ExitStack() as stack:
        stack.enter_context(_dispatched_anew())
        stack.enter_context(_patches.register_lstm_while_loop_decomposition())
        stack.enter_context(_patches.register_gru_while_loop_decomposition())
        for operator, activation in _PLAIN.items():
            loop = partial(_plain_layers, activation)
            stack.enter_context(_patches._register_rnn_while_loop_decomposition(operator, loop))
        yield


def _plain_layers(
    activation: Callable[[Tensor], Tensor],
    x: Tensor,
    hidden: Tensor,
    weights: list[Tensor],
    has_biases: bool,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    """``aten.rnn_tanh`` or ``rnn_relu``, as PyTorch's own loops are put together."""
    from torch._decomp import decompositions

    put_together: Any = decompositions._rnn_helper
    layers = decompositions.gather_params(weights, has_biases, False)
    layer = partial(_plain_layer, activation)
    steps, last = put_together(x, list(hidden.unbind(0)), layers, has_biases, *settings, layer)
    return steps, torch.stack(last, 0)


def _plain_layer(
    activation: Callable[[Tensor], Tensor],
    x: Tensor,
    hidden: Tensor,
    weights: list[Tensor],
    has_biases: bool,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """One layer in one direction over ``(time, batch, features)``: all its states, and the last."""
    from torch._higher_order_ops.while_loop import while_loop
    from torch.export._patches import _clone_tensors_that_alias

    bias, own_bias = weights[2:4] if has_biases else (None, None)
    given = nn.functional.linear(x, weights[0], bias)
    given = given.flip(0) if reverse else given
    own_weight, own_bias = _clone_tensors_that_alias((weights[1], own_bias))

    def goes_on(step: Tensor, states: Tensor, state: Tensor) -> Tensor:
        return step < given.size(0)

    def advance(step: Tensor, states: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        index: Any = step.item()
        torch._check(index >= 0)
        torch._check(index < given.size(0))
        state = activation(given[index] + nn.functional.linear(state, own_weight, own_bias))
        states = states.clone()
        states[index] = state
        return step + 1, states, state

    empty = given.new_empty(given.size(0), *hidden.shape)
    _, states, last = while_loop(goes_on, advance, [torch.tensor(0), empty, hidden.clone()])
    return (states.flip(0) if reverse else states), last


@contextmanager
def _dispatched_anew() -> Iterator[None]:
    """PyTorch remembers which kernel an operator has, also when another is registered."""
    kernels = [getattr(operator, "_dispatch_cache", {}) for operator in RECURRENT]
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


@contextmanager
def _distances_of_any_rows() -> Iterator[None]:
    known, place = torch.cdist, cast(Any, torch)
    place.cdist = _cdist_of_any_rows
    try:
        yield
    finally:
        place.cdist = known


def _cdist_of_any_rows(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = _CDIST_MODES[0]) -> Tensor:
    """``torch.cdist`` that does not ask whether an open number of rows is above 25."""
    mode = _CDIST_MODES.index(compute_mode)
    if mode == 0 and not all(isinstance(x.shape[-2], int) for x in (x1, x2)):
        mode = 1 if has_many_rows(x1, x2) else 2
    distances: Tensor = ops.aten.cdist(x1, x2, p, mode)
    return distances


def has_many_rows(x1: Tensor, x2: Tensor) -> bool:
    """Whether, by a number that is not open, there are as many rows as ``torch.cdist`` wants for products."""
    return any(isinstance(x.shape[-2], int) and x.shape[-2] > _MANY_ROWS for x in (x1, x2))


def _said_to_be_causal(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    return is_causal is True
