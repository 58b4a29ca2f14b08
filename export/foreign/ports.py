"""What a foreign file takes and returns, matched with what the model does: by name, or in order if no name agrees."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from export.errors import UserError
from export.signature import Signature
from export.tensor import TensorSpec


@dataclass(frozen=True, kw_only=True)
class Port:
    """One tensor at the border of a file, as the file states it."""

    name: str
    dtype: str | None = None
    """None where the file does not say."""
    shape: tuple[int | str | None, ...] | None = None
    """A size that the file leaves open is its name, or None; the whole is None where the file does not say."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The ports of one side of a file, in the order of the signature's tensors."""

    ports: tuple[Port, ...]
    by_order: bool
    """Whether their order alone says which is which, since no name agrees."""


def match_inputs(signature: Signature, ports: Sequence[Port]) -> Matched:
    """Match what a file takes with what the model takes.

    Raises:
        UserError: names, counts, dtypes or sizes that do not fit; says what to write.
    """
    matched = _match(signature.inputs, ports, "inputs")
    for spec, port in zip(signature.inputs, matched.ports, strict=True):
        _check_dtype(spec, port)
        _check_sizes(spec, port, signature)
    return matched


def match_outputs(signature: Signature, ports: Sequence[Port]) -> Matched:
    """Match what a file returns with what the model returns; a file may return more. ``signature`` has its outputs.

    Raises:
        UserError: names, counts or dtypes that do not fit; sizes are left to the calls.
    """
    matched = _match(signature.outputs, ports, "outputs")
    for spec, port in zip(signature.outputs, matched.ports, strict=True):
        _check_dtype(spec, port)
    return matched


def _match(specs: Sequence[TensorSpec], ports: Sequence[Port], what: str) -> Matched:
    by_name = {plain(port.name): port for port in ports}
    known = [plain(spec.name) in by_name for spec in specs]
    if all(known) and (what == "outputs" or len(ports) == len(specs)):  # one may return more than the model does
        return Matched(ports=tuple(by_name[plain(spec.name)] for spec in specs), by_order=False)
    if not any(known) and len(ports) == len(specs):
        return Matched(ports=tuple(ports), by_order=len(ports) > 1)
    raise UserError(
        f"the file's {what} are {', '.join(port.name for port in ports) or 'none'}, the model's "
        f"{', '.join(spec.name for spec in specs)}: export it with the model's names, which decide what is what"
    )


def _check_dtype(spec: TensorSpec, port: Port) -> None:
    if port.dtype is not None and port.dtype != spec.dtype:
        remedy = "export it with the model's dtype"
        if port.dtype in {"float16", "bfloat16"}:
            remedy = "convert it with inputs and outputs kept as they are (keep_io_types=True), or check model.half()"
        raise UserError(
            f"{spec.name} is {spec.dtype} in the model and {port.dtype} in the file"
            f"{'' if port.name == spec.name else f' (there {port.name})'}: {remedy}"
        )


def _check_sizes(spec: TensorSpec, port: Port, signature: Signature) -> None:
    if port.shape is None:
        return
    if len(port.shape) != len(spec.shape):
        raise UserError(
            f"{spec.name} has {len(spec.shape)} dimensions in the model and {len(port.shape)} in the file: "
            "it is another model's, or takes another input there"
        )
    for index, (size, dim) in enumerate(zip(port.shape, spec.shape, strict=True)):
        if not isinstance(size, int) or size == dim:
            continue
        if isinstance(dim, str):
            raise UserError(
                f"the file fixes dimension {index} of {spec.name} at {size}, the model takes {dim!r} in "
                f"{signature.ranges[dim].summary}: export it with that dimension dynamic, or check that size alone "
                "(dynamic={} in torchstone.check, a number in a recipe's signature)"
            )
        raise UserError(f"dimension {index} of {spec.name} is {dim} in the model and {size} in the file")


def plain(name: str) -> str:
    """What is left of a name where exporters write points as underscores."""
    return re.sub(r"\W", "_", name)


def renames(signature: Signature, inputs: Matched, outputs: Matched) -> dict[str, str]:
    """The signature's names by the file's, where they differ."""
    pairs = [*zip(inputs.ports, signature.inputs, strict=True), *zip(outputs.ports, signature.outputs, strict=True)]
    return {port.name: spec.name for port, spec in pairs if port.name != spec.name}


def matched_facts(
    inputs: Matched, outputs: Matched | None = None, names: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What an artifact's record says of how its tensors were found; ``names`` are the new ones by those in the file."""
    sides = (("inputs", inputs), ("outputs", outputs))
    by_order = [what for what, side in sides if side is not None and side.by_order]
    facts = {"renamed": ", ".join(f"{old} to {new}" for old, new in names.items())} if names else {}
    return facts | ({"matched_by_order": " and ".join(by_order)} if by_order else {})
