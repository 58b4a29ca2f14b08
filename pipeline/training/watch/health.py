"""Where a batch first stops being finite: in its rows, in a module's result, or in a gradient.

The batch goes through the model once more, with a hook on every module; weights are as they were before its step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils import _pytree

from pipeline.data import Split
from pipeline.training.batches.batch import Batch
from pipeline.training.sharding import unshard, whole

_ROWS_SHOWN = 8


def nonfinite_forward(module: nn.Module, again: Callable[[], object], batch: Split) -> tuple[str, list[int]]:
    """What of a batch is first not finite, and in which of its rows, where that shows.

    ``again`` sends the batch through the module.
    """
    unshard(module)  # by all processes: from here on each looks for itself
    for name, tensor in batch.inputs.items():
        if rows := _rows(tensor, batch.rows_count):
            return f"the input {name!r} is not finite", rows
    if rows := _rows(batch.targets, batch.rows_count):
        return "the targets are not finite", rows
    for name, parameter in module.named_parameters():
        if not _is_finite(parameter):
            return f"the parameter {name!r} is not finite: the step before made it so", []
    first: list[tuple[str, list[int]]] = []
    names = dict(module.named_modules())
    handles = [
        each.register_forward_hook(_hook(f"{name or 'the model'} ({type(each).__name__})", batch.rows_count, first))
        for name, each in names.items()
    ]
    try:
        with torch.no_grad():
            again()
    finally:
        for handle in handles:
            handle.remove()
    if not first:
        return "every module's result is finite: it is the loss that is not", []
    where, rows = first[0]
    return f"the first module whose result is not finite is {where}", rows


def nonfinite_gradient(module: nn.Module) -> str:
    """The parameter nearest the loss whose gradient is not finite."""
    names = [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and not _is_finite(whole(parameter.grad))
    ]
    if not names:
        return "each gradient is finite, but not their norm"
    return f"seen from the loss, the first gradient that is not finite is that of {names[-1]!r}"


def rows_named(rows: list[int], batch: Batch) -> str:
    """Some rows of a batch, or all, by their numbers in the data where those are known; a text to append."""
    places = rows or list(range(batch.split.rows_count))
    numbers = [int(batch.numbers[place]) for place in places] if batch.numbers is not None else places
    if not rows and batch.numbers is None:
        return ""
    more = f" and {len(numbers) - _ROWS_SHOWN} more" if len(numbers) > _ROWS_SHOWN else ""
    where = "" if batch.numbers is not None else " of the batch"
    return f", row{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:_ROWS_SHOWN]))}{more}{where}"


def _hook(name: str, rows_count: int, first: list[tuple[str, list[int]]]) -> Callable[..., None]:
    def look(module: nn.Module, inputs: object, result: object) -> None:
        for tensor in _tensors(result):
            if not first and not _is_finite(tensor):
                first.append((name, _rows(tensor, rows_count)))

    return look


def _tensors(result: object) -> Iterator[torch.Tensor]:
    yield from (leaf for leaf in _pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))


def _is_finite(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all())


def _rows(tensor: torch.Tensor, rows_count: int) -> list[int]:
    """The rows that are not finite; none where the first dimension is not that of rows."""
    if _is_finite(tensor) or tensor.ndim == 0 or len(tensor) != rows_count:
        return []
    rows: list[int] = torch.nonzero(~torch.isfinite(tensor).reshape(len(tensor), -1).all(1)).flatten().tolist()
    return rows
