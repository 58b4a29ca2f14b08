"""The user's module behind flat tensors: inputs as export/arguments.py binds them, outputs by the names that the model
returns. Position decides only where there are no names: the elements of a tuple.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from export.arguments import Arguments
from export.errors import UserError
from export.signature import Signature


class FlatModule(nn.Module):
    """The user's module behind flat positional tensors: inputs and outputs in the order of the signature."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.module = module
        self.arguments = Arguments.of(module, signature.inputs, signature.constants)
        self.output_names = signature.output_names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors shaped as the signature's inputs, to tensors shaped as its outputs."""
        return tuple(self.named(*tensors).values())

    def named(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """The same, with the names of the outputs; the model's own where the signature has none yet.

        Complex numbers come as pairs of real ones, in a last dimension of 2: most runtimes have no others.
        """
        returned = self.returned(*tensors)
        if any(tensor.is_complex() for tensor in returned.values()):
            return {name: _as_pairs(tensor) for name, tensor in returned.items()}
        return returned

    def returned(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """The same as the model returns it, complex numbers as they are."""
        positional, keywords = self.arguments.bind(tensors)
        return name_outputs(self.module(*positional, **keywords), self.output_names)


def _as_pairs(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def name_outputs(result: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of a model's result under ``names`` and in their order: by name where the result has names.

    Raises:
        UserError: names that the model does not return, or another number of them; both lists are shown.
    """
    returned = flatten(result)
    if tuple(returned) == tuple(names):  # what nearly every call of eager, the baseline of all timings, comes to
        return returned
    if names and not has_names(result):
        if len(returned) != len(names):
            raise UserError(f"output_names must name the {len(returned)} tensors {list(returned)}, got {list(names)}")
        return dict(zip(names, returned.values(), strict=True))
    returned = {plain(name): tensor for name, tensor in returned.items()}
    if not names:
        return returned
    returned = {_as_output(name) if _as_output(name) in names else name: tensor for name, tensor in returned.items()}
    if returned.keys() != set(names):
        raise UserError(
            f"output_names must name the {len(returned)} tensors that the model returns, {list(returned)}, "
            f"got {list(names)}: the model gives them names, which the signature must use"
        )
    return {name: returned[name] for name in names}


def _as_output(name: str) -> str:
    """What an output is called that the model calls as it does an input."""
    return f"{name}_output"


def distinct(names: Iterable[str], inputs: Iterable[str]) -> list[str]:
    """The model's own names of its outputs, told apart from its inputs'."""
    taken = set(inputs)
    return [_as_output(name) if name in taken else name for name in names]


def plain(name: str) -> str:
    """A name that files can bear."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)


def has_names(result: Any) -> bool:
    """Whether a result names its parts itself: a mapping, a dataclass, a named tuple."""
    return isinstance(result, Mapping) or dataclasses.is_dataclass(result) or hasattr(result, "_fields")


def flatten(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a nested result by name: ``{"logits": ..., "boxes.0": ...}``; a lone tensor is ``output``.

    Tuples, lists, mappings and dataclasses are walked in their own order; ``None`` is left out.

    Raises:
        UserError: a value that is no tensor and no container of tensors.
    """
    if value is None:
        return {}
    if isinstance(value, torch.Tensor):
        return {prefix or "output": value}
    items = parts(value, prefix)
    if items is None:
        raise UserError(
            f"a model's result must be tensors, got {type(value).__name__} at {prefix or 'the top'}: "
            "leave it out in forward()"
        )
    return {
        name: tensor
        for key, item in items
        for name, tensor in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def refill(template: Any, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> Any:
    """The inverse of ``flatten``: a result of the template's structure with the tensors of those names."""
    if template is None:
        return None
    if isinstance(template, torch.Tensor):
        return tensors[plain(prefix or "output")]
    filled = {
        key: refill(item, tensors, f"{prefix}.{key}" if prefix else str(key))
        for key, item in parts(template, prefix) or ()
    }
    if isinstance(template, Mapping):
        return type(template)(**filled)
    if dataclasses.is_dataclass(template) and not isinstance(template, type):
        return dataclasses.replace(template, **filled)
    return type(template)(*filled.values()) if hasattr(template, "_fields") else type(template)(filled.values())


def parts(value: Any, prefix: str) -> Iterable[tuple[Any, Any]] | None:
    """The parts of a container with their keys; None if it is none."""
    if isinstance(value, Mapping):
        return value.items()
    if dataclasses.is_dataclass(value):
        return ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    if hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    if isinstance(value, tuple | list):
        return ((str(index) if prefix else f"output_{index}", item) for index, item in enumerate(value))
    return None
