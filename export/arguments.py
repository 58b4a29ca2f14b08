"""Which input is which argument of ``forward``: bound by name, and by path into what is nested.

An input ``cache.0.key`` is part of the parameter ``cache``: numbers are the places of a tuple, or of a list where the
parameter's annotation says so; other names are the keys of a dict, or the fields of the dataclass or named tuple that
the annotation says. Position decides only where there are no names: ``*args``, and a lone input, which is the lone
parameter's whatever it is called.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from export.errors import UserError
from export.signature import Constant, TensorSpec

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Input:
    """An argument that is an input, by its number."""

    number: int

    def fill(self, values: Sequence[Any]) -> Any:
        """Its value."""
        return values[self.number]


@dataclass(frozen=True)
class Fixed:
    """An argument that is the same in every call."""

    value: Constant

    def fill(self, values: Sequence[Any]) -> Any:
        """Its value."""
        return self.value


@dataclass(frozen=True)
class Nested:
    """An argument that is a container of inputs."""

    make: Callable[[dict[str, Any]], Any]
    parts: dict[str, Slot]

    def fill(self, values: Sequence[Any]) -> Any:
        """The container with their values."""
        return self.make({name: part.fill(values) for name, part in self.parts.items()})


Slot = Input | Fixed | Nested


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How ``forward`` is called."""

    positional: tuple[Slot, ...]
    keywords: dict[str, Slot]

    @classmethod
    def of(
        cls, module: nn.Module, inputs: Sequence[TensorSpec], constants: Mapping[str, Constant] | None = None
    ) -> Arguments:
        """Bind every input, and every constant, to the parameter of its name.

        Raises:
            UserError: an input without its parameter, or a parameter without its input; both lists are shown.
        """
        parameters, fixed = _parameters(module), {name: Fixed(value) for name, value in (constants or {}).items()}
        required = [name for name, parameter in parameters.items() if _is_required(parameter) and name not in fixed]
        given = _given(module, parameters, inputs)
        lone = required or [name for name, parameter in parameters.items() if parameter.kind in _POSITIONAL][:1]
        if len(inputs) == 1 and not given.keys() & parameters.keys() and not inputs[0].keyword and len(lone) == 1:
            given = {lone[0]: Input(0)} if parameters[lone[0]].kind in _POSITIONAL else given
        given |= fixed
        keyword_inputs = [spec.name for spec in inputs if spec.keyword]
        by_keyword = {*keyword_inputs, *(name.partition(".")[0] for name in keyword_inputs), *fixed}
        positional, keywords = _by_name(parameters, given, by_keyword)
        left = {name: slot for name, slot in given.items() if name not in {*positional, *keywords}}
        kinds = {parameter.kind for parameter in parameters.values()}
        slots = [*positional.values()]
        if inspect.Parameter.VAR_POSITIONAL in kinds and not keywords:
            slots += [left.pop(name) for name in [*left] if name not in by_keyword]
        if inspect.Parameter.VAR_KEYWORD in kinds:
            keywords |= {name: left.pop(name) for name in [*left] if name in by_keyword}
        missing = [name for name in required if name not in given]
        if left or missing:
            raise UserError(_unbound(inputs, parameters, [*left], missing))
        return cls(positional=tuple(slots), keywords=keywords)

    def bind(self, values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments, from values in the order of the signature's inputs."""
        return [slot.fill(values) for slot in self.positional], {
            name: slot.fill(values) for name, slot in self.keywords.items()
        }

    @property
    def numbers(self) -> list[int] | None:
        """The inputs by number in the order of the arguments; None where an argument is no input alone."""
        slots = [*self.positional, *self.keywords.values()]
        numbers = [slot.number for slot in slots if isinstance(slot, Input)]
        return numbers if len(numbers) == len(slots) else None


def _given(
    module: nn.Module, parameters: Mapping[str, inspect.Parameter], inputs: Sequence[TensorSpec]
) -> dict[str, Slot]:
    """The inputs, and what they make together, by the name of the parameter."""
    given: dict[str, Slot] = {}
    nested: dict[str, dict[str, Any]] = {}
    for number, spec in enumerate(inputs):
        first, *path = spec.name.split(".")
        if spec.name in parameters or not path or first not in parameters:
            given[spec.name] = Input(number)
            continue
        place = nested.setdefault(first, {})
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = Input(number)
        given.setdefault(first, Fixed(None))  # in its place among the others, to be replaced
    hints = _hints(module) if nested else {}
    return given | {name: _container(parts, hints.get(name)) for name, parts in nested.items()}


def _container(parts: Mapping[str, Any], hint: Any) -> Nested:
    """The container that the parts' names, and the annotation of where it goes, make."""
    hint = _without_none(hint)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    numbered = all(key.isdigit() for key in parts)
    if numbered and sorted(map(int, parts)) != [*range(len(parts))]:
        raise UserError(f"the places of a nested input are 0 to {len(parts) - 1}, got {', '.join(parts)}")
    fields = typing.get_type_hints(origin) if _has_fields(origin) else {}
    if fields:
        make, kinds = (lambda filled: origin(**filled)), fields
    elif numbered:
        make = (lambda filled: [*filled.values()]) if origin is list else (lambda filled: tuple(filled.values()))
        each = arguments[0] if arguments and (origin is list or arguments[-1] is ...) else None
        kinds = {key: each or (arguments[int(key)] if int(key) < len(arguments) else None) for key in parts}
        parts = {key: parts[key] for key in sorted(parts, key=int)}
    else:
        make, kinds = dict, dict.fromkeys(parts, arguments[1] if len(arguments) == 2 else None)
    return Nested(
        make, {key: _container(part, kinds.get(key)) if isinstance(part, dict) else part for key, part in parts.items()}
    )


def _has_fields(kind: Any) -> bool:
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"))


def _without_none(hint: Any) -> Any:
    """``X`` of ``X | None``."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else None


def _hints(module: nn.Module) -> dict[str, Any]:
    """The annotations of ``forward``; none where they cannot be evaluated, or there are none to evaluate."""
    try:
        return typing.get_type_hints(module.forward)
    except Exception:  # noqa: BLE001 - annotations are the user's code; without them the names alone decide
        return {}


def _parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    """The parameters of ``forward``, without ``self``; those of a compiled one from its schema."""
    schema = getattr(module.forward, "schema", None)
    if schema is None:
        return dict(inspect.signature(module.forward).parameters)
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    return {
        argument.name: inspect.Parameter(
            argument.name, kind, default=argument.default_value if argument.has_default_value() else empty
        )
        for argument in schema.arguments[1:]
    }


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty and parameter.kind not in _ANY_NUMBER


def _by_name(
    parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Slot], by_keyword: set[str]
) -> tuple[dict[str, Slot], dict[str, Slot]]:
    """What has a parameter: by position as long as there is no gap (hooks see positional ones alone)."""
    positional: dict[str, Slot] = {}
    keywords: dict[str, Slot] = {}
    whole = True
    for name, parameter in parameters.items():
        if name not in given or parameter.kind in _ANY_NUMBER:
            whole = False
        elif whole and parameter.kind in _POSITIONAL and name not in by_keyword:
            positional[name] = given[name]
        elif parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            whole = False
            keywords[name] = given[name]
    return positional, keywords


def _unbound(
    inputs: Sequence[TensorSpec], parameters: Mapping[str, inspect.Parameter], left: list[str], missing: list[str]
) -> str:
    names = ", ".join(spec.name for spec in inputs)
    what = [f"no parameter is called {name!r}" for name in left] + [
        f"nothing is given for {name!r}" for name in missing
    ]
    return (
        f"the signature's inputs ({names}) do not bind to forward({', '.join(map(str, parameters.values()))}): "
        f"{'; '.join(what)}. Inputs are bound by name: call them as forward's parameters are called"
    )
