"""The model on whole splits: its result, and the recipe's metrics of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from export.arguments import Arguments
from export.record import key_of
from pipeline.data import Split, as_split
from pipeline.training.batches.numbered import Seeded
from pipeline.training.weights import tensor_sha256

if TYPE_CHECKING:
    from export.device import Device
    from pipeline.data import Data
    from pipeline.recipe import Recipe

_ROWS_AT_ONCE = 4096
_DIGESTED_ROWS = 4096


def final_metrics(recipe: Recipe, data: Data | None, module: nn.Module, where: Device) -> dict[str, float]:
    """Every metric on every split, of the kept weights."""
    results: dict[str, float] = {}
    if data is None or not recipe.metrics:
        return results
    for split_name, split in data.splits.items():
        moved = split.on(where)
        results |= _metrics(recipe, split_name, predict(recipe, module, moved), moved.targets)
    return results


def validation_metrics(recipe: Recipe, module: nn.Module, split: Split | None) -> dict[str, float]:
    """The loss and every metric on the validation split, which lies on the module's device; nothing without one."""
    if split is None:
        return {}
    assert recipe.loss is not None
    outputs = predict(recipe, module, split)
    figures = {"validation_loss": float(recipe.loss(outputs, split.targets))}
    return figures | _metrics(recipe, "validation", outputs, split.targets)


def _metrics(recipe: Recipe, split: str, outputs: Any, targets: Any) -> dict[str, float]:
    return {f"{split}_{name}": float(metric(outputs, targets)) for name, metric in recipe.metrics.items()}


def data_sha256(data: Data | None, names: Sequence[str]) -> dict[str, str]:
    """The digest of every tensor of the data, by split and name; and of training rows that are read by number."""
    if data is None:
        return {}
    of_tensors = {
        f"{split_name}.{name}": tensor_sha256(tensor)
        for split_name, split in data.splits.items()
        for name, tensor in {**split.inputs, "targets": split.targets}.items()
    }
    rows = data.train
    if isinstance(rows, Split | DataLoader | IterableDataset):
        return of_tensors
    return of_tensors | {"train.rows": _rows_sha256(rows, names)}


def _rows_sha256(rows: Dataset[Any], names: Sequence[str]) -> str:
    """A digest of rows that does not depend on their order: of all, or of so many at even distances."""
    count = len(rows)  # type: ignore[arg-type]
    numbers = sorted({count * place // _DIGESTED_ROWS for place in range(_DIGESTED_ROWS)}) if count else []
    digests = []
    for row in Seeded(rows, 0).__getitems__([(0, number) for number in numbers]):
        split = as_split(default_collate([row]), names)
        digests.append(
            key_of(**{name: tensor_sha256(each) for name, each in {**split.inputs, "": split.targets}.items()})
        )
    return key_of(rows_count=count, rows=sorted(digests))


def predict(recipe: Recipe, module: nn.Module, split: Split) -> Any:
    """The model's result on a whole split, in eval mode; large splits are answered in parts and joined."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            if split.rows_count <= _ROWS_AT_ONCE:
                return call(recipe, module, split)
            parts = [
                call(recipe, module, split.take(slice(start, start + _ROWS_AT_ONCE)))
                for start in range(0, split.rows_count, _ROWS_AT_ONCE)
            ]
            return _join(parts)
    finally:
        module.train(training)


def _join(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple | list):
        joined = [_join(list(column)) for column in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return replace(
        first, **{name: _join([getattr(part, name) for part in parts]) for name in first.__dataclass_fields__}
    )


def call(recipe: Recipe, module: nn.Module, batch: Split) -> Any:
    """The model's own result on the rows of a split, its inputs bound to ``forward``'s parameters by name."""
    return Caller(recipe, module)(batch)


class Caller:
    """Calls the model on many batches; how its inputs bind is worked out once."""

    def __init__(self, recipe: Recipe, module: nn.Module, through: Callable[..., Any] | None = None) -> None:
        """``through`` is what is called where that is not the module itself, but something around it."""
        self._names = [spec.name for spec in recipe.signature.inputs]
        self._arguments = Arguments.of(module, recipe.signature.inputs, recipe.signature.constants)
        self._called = module if through is None else through
        numbers = None if self._arguments.keywords else self._arguments.numbers
        self._in_order = None if numbers is None else [self._names[number] for number in numbers]
        """The inputs' names, where each is an argument by its place: then nothing need be put together at each call."""

    def __call__(self, batch: Split) -> Any:
        """The model's own result."""
        if self._in_order is not None:
            return self._called(*[batch.inputs[name] for name in self._in_order])
        positional, keywords = self._arguments.bind([batch.inputs[name] for name in self._names])
        return self._called(*positional, **keywords)
