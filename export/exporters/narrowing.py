"""From a precision's name to the program that a backend builds from: half precision is brought about here, for all.

A backend whose ``precision`` is a half one is handed a program that is in it already; it builds that as any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from export.arrays import is_floating, to_torch
from export.errors import UserError
from export.exporters.quantize import calibration_calls, rows_count
from export.foreign.narrowed import HALVES, narrowed

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from export.artifact import Artifact
    from export.backend import Backend, BuildInput
    from export.contents import Contents
    from export.taps.ranges import RangeScan
    from export.taps.trace import Trace

FLOAT16, BFLOAT16 = "float16", "bfloat16"
KEPT, KEPT_WEIGHTS, RANGES, WEIGHTS = "kept_float32", "float32_weights", "ranges", "weights"
OUTSIDE = "out_of_range"
"""Facts of an artifact in half precision: operators that stay in float32 and why; the weights that they read; what was
looked at; what its own files hold; and the program's values, by node, that half precision cannot hold."""
_SHOWN, _SHOWN_CHARACTERS = 12, 160


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """What a backend builds from, and what is to be said of it."""

    source: BuildInput
    facts: dict[str, str]


def narrow(source: BuildInput, precision: str | None, scratch: Path) -> Narrowed:
    """The program in half precision, written into ``scratch``; of any other precision the source as it is.

    Raises:
        UserError: there is no program, or nothing of it is in float32, or all its weights must stay in that.
    """
    if precision not in HALVES:
        return Narrowed(source=source, facts={})
    if source.program_failure is not None:
        why = source.program_failure
        raise UserError(f"{precision} is brought about in the traced program, and there is none: {why}")
    import torch

    from export.exporters.halved import halve
    from export.program import load_exported, quiet
    from export.taps.ranges import RangeScan
    from export.taps.trace import Trace

    half = getattr(torch, precision)
    program = prepared(load_exported(source.program_file))
    trace = Trace(program)
    scan = RangeScan(trace, half)
    scan.add(trace.weights)
    looked_at = _scan_rows(source, trace, scan)
    outside = scan.outside()
    halved = halve(program, half, outside)
    if halved.narrowed_count == 0:
        why = "; ".join(outside.values()) or "no operator reads float32"
        raise UserError(f"nothing in the model can be narrowed to {precision}: {why}")
    if halved.kept_weights and not any(tensor.dtype == half for tensor in _tensors(program)):
        why = "; ".join(_reasons(trace, halved.kept, outside))
        raise UserError(f"all weights must stay in float32, so that {precision} saves nothing: {why}")
    file = scratch / "narrowed.pt2"
    with quiet():
        torch.export.save(program, file)
    facts = {
        "narrowed": f"{halved.narrowed_count} operators compute in {precision}, {len(halved.kept)} in float32",
        RANGES: looked_at,
    }
    if outside:
        facts[OUTSIDE] = ", ".join(outside)
    if halved.kept:
        facts[KEPT] = "; ".join(_reasons(trace, halved.kept, outside))
    if halved.kept_weights:
        facts[KEPT_WEIGHTS] = ", ".join(name.removeprefix("module.") for name in halved.kept_weights)
    return Narrowed(source=replace(source, program_file=file), facts=facts)


def halved_program(program: ExportedProgram, half: torch.dtype, outside: Collection[str]) -> ExportedProgram:
    """What was handed to a backend, once more: from the program, and the fact ``OUTSIDE`` of what was built."""
    from export.exporters.halved import halve

    again = prepared(program)
    halve(again, half, outside)
    return again


def unfolded_program(program: ExportedProgram, half: torch.dtype, outside: Collection[str]) -> ExportedProgram:
    """The same with its norms as they are, so that it does not share an error of folding.

    A norm stays in float32 where the layer does that it would be folded into.
    """
    from export.exporters.folded import pairs
    from export.exporters.halved import functional, halve
    from export.program import quiet

    with quiet():
        again = functional(program)
    folded = [norm for norm, layer in pairs(again) if layer.name in outside]
    halve(again, half, {*outside, *(node.name for norm in folded for node in (norm, *norm.users))})
    return again


def prepared(program: ExportedProgram) -> ExportedProgram:
    """The program without writes in place, its norms folded: what is rewritten, and what nodes are named in."""
    from export.exporters.folded import fold_norms
    from export.exporters.halved import functional
    from export.program import quiet

    with quiet():
        changed = functional(program)
    fold_norms(changed)
    return changed


def _tensors(program: ExportedProgram) -> list[torch.Tensor]:
    return [held for held in (*program.state_dict.values(), *program.constants.values()) if hasattr(held, "dtype")]


def _scan_rows(source: BuildInput, trace: Trace, scan: RangeScan) -> str:
    """Run the program as it is over the calibration rows; says what was looked at."""
    if source.calibration is None:
        return "of the weights alone: the recipe has no data, so that nobody knows what overflows or vanishes"
    calls = list(calibration_calls(source))
    for call in calls:
        inputs = [to_torch(array) for array in call.values()]
        trace.bind(inputs)
        scan.add(dict(zip(trace.inputs, inputs, strict=True)) | trace.narrow())
    return f"of weights and values, on {rows_count(calls)} rows of the training data"


def _reasons(trace: Trace, kept: tuple[str, ...], outside: Mapping[str, str]) -> Iterator[str]:
    """Every operator that stays in float32, with its module and the reason; the first few."""
    for name in kept[:_SHOWN]:
        node = trace.nodes[name]
        sources = [name, *(user.name for user in node.users), *(source.name for source in node.all_input_nodes)]
        why = next((f"{culprit} {outside[culprit]}" for culprit in sources if culprit in outside), None)
        scope = trace.scope(name)
        place = f"{name} in {scope}" if scope else name
        yield shorten(f"{place}: {why or 'has no form in half precision'}", _SHOWN_CHARACTERS, placeholder="...")
    if len(kept) > _SHOWN:
        yield f"and {len(kept) - _SHOWN} more"


def stored_as(contents: Contents) -> Counter[str]:
    """Elements of an artifact's weights, by dtype: the witness of what its files hold. Integers count if quantised."""
    kinds: Counter[str] = Counter()
    for stored in contents.weights.values():
        if is_floating(stored.dtype) or stored.dtype.name in {"int8", "uint8"}:
            kinds[stored.dtype.name] += stored.size
    return kinds


def histogram(kinds: Mapping[str, int]) -> str:
    """``float16 25,450, float32 10``: elements by dtype, the most first."""
    return ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))


def witnessed(artifact: Artifact, backend: Backend, folder: Path, model: str) -> Artifact:
    """The artifact with what its own files say of half precision; one of another precision as it is.

    ``model`` is the program's precision.

    Raises:
        UserError: the files hold no weights of the dtype that was asked for, or of another half one.
    """
    asked = backend.precision
    if asked not in HALVES:
        return artifact
    contents = backend.contents(artifact, folder)
    kinds = stored_as(contents) if contents is not None else Counter()
    floats = sorted(kind for kind in kinds if "float" in kind)
    if floats and {*floats} & {*HALVES} != {asked}:
        raise UserError(f"{asked} was asked for, and the files hold {histogram(kinds)}: the exporter did not keep it")
    facts = {"form": f"{artifact.facts['form']}, in {asked}", WEIGHTS: histogram(kinds) or "the files show none"}
    precision = narrowed("+".join(floats) or asked, model) or asked
    return replace(artifact, precision=precision, facts=artifact.facts | facts)
