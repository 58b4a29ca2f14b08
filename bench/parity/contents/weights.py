"""The weights and settings inside an artifact, compared with the checkpoint's and the traced program's.

A weight may lie in the file as it is, with its dimensions permuted, in parts, or folded: into the convolution before a
batch norm, or into a constant that the program computes from weights alone. Folded values are recomputed in float64 and
must agree to a few roundings. A weight that is found under its name but differs, or that the file holds almost, fails;
one of which there is no trace is read from the answers (bench/parity/levels/probe.py), or reported as not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.parity.cases import Values
from bench.parity.check import Check
from bench.parity.contents import Difference
from bench.parity.contents.folding import Folded, cast_weights, folded_constants, folded_norms, used_weights
from bench.parity.contents.halved import as_float32, by_width, nearest, rounded, rounding
from bench.parity.contents.opened import Opened
from bench.parity.contents.probe import MOST_ELEMENTS, Call, probe
from export.arrays import is_floating
from export.contents import Contents
from export.exporters.narrowing import KEPT_WEIGHTS
from export.foreign.narrowed import half_of

if TYPE_CHECKING:
    import torch

_SHOWN = 3
_NEAR = 0.1
"""A tensor of the same shape closer than this (relative) is the weight itself, altered."""
_MOST_PERMUTED_DIMS = 4
_PARTS, _LEAST_PART = (3, 4), 2


def weights_check(opened: Opened, checkpoint: Path, calls: Sequence[Call] = ()) -> Check:
    """The finding of the level ``weights``; ``checkpoint`` holds the weights, as safetensors.

    ``calls`` are inputs, float64 answers and the artifact's own answers, from which weights are read that the files do
    not show.
    """
    from safetensors.numpy import load_file

    contents = opened.contents
    if contents is None:
        message = f"{opened.artifact.backend} keeps no weights of its own"
        return Check(level="weights", subject="files", status="unchecked", message=message)
    exported = opened.traced
    weights = load_file(checkpoint)
    used = used_weights(exported) & weights.keys() if exported is not None else set(weights)
    folded: list[Folded] = []
    if exported is not None:
        folded = [*folded_norms(exported, weights), *folded_constants(exported), *cast_weights(exported)]
    wanted = {name: weights[name] for name in sorted(used)}
    if (half := half_of(opened.artifact.precision)) is not None and opened.artifact.is_foreign:
        return _halved(compare_weights(as_float32(contents), wanted, rounded(wanted, folded, half)), contents.how, half)
    if half is not None:
        kept = opened.artifact.facts.get(KEPT_WEIGHTS, "").split(", ")
        return narrowed_weights(contents, wanted, folded, kept, half)
    comparison = compare_weights(contents, wanted, folded)
    if opened.artifact.is_foreign:
        comparison = comparison.unexplained()
    if exported is None and comparison.wrong:
        message = (
            f"{len(comparison.wrong)} are not as in the checkpoint, first {comparison.wrong[0].place}: without a "
            "traced program nobody can tell what they were folded to"
        )
        return Check(level="weights", subject=comparison.wrong[0].place, status="unchecked", message=message)
    missing = {name: weights[name] for name in comparison.missing}
    hidden = f"not as it is in the {contents.how}" if opened.artifact.is_foreign else "compiled into code"
    return _probed(comparison, missing, exported, calls, hidden) or comparison.check(contents.how)


def _halved(comparison: Found, how: str, half: str) -> Check:
    """The finding about a file made elsewhere; what differs, or is not there, may be right, if a tool folded it."""
    check = comparison.check(how)
    if check.status == "fail":
        return replace(check, status="inconclusive", message=f"{check.message}, more than {half} makes of it")
    return replace(check, status="inconclusive") if comparison.missing else check


def narrowed_weights(
    contents: Contents, weights: dict[str, Values], folded: list[Folded], kept: Collection[str], half: str
) -> Check:
    """The finding about an artifact that was narrowed here: weights are rounded once, to the nearest, and no other way.

    ``kept`` are those that stay in more bits by intent, since their values leave the range of half precision.
    """
    folds = rounded({}, folded, half)
    narrow, wide = by_width(contents)
    single = {name: weight for name, weight in weights.items() if is_floating(weight.dtype) and name not in kept}
    alone = [(name, weight, rounding(weight, half)) for name, weight in single.items()]
    joint = [(name, fold.value, fold.tolerance) for fold in folds for name in fold.uses if name in single]
    left = [
        name
        for name, value, tolerance in (*alone, *joint)
        if value.size and _find(value, wide, tolerance) and not _find(value, narrow, tolerance)
    ]
    if left:
        places = tuple(dict.fromkeys(left))
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        message = f"{half} was asked for, and {', '.join(places[:_SHOWN])}{more} are in float32: no value asks for that"
        return Check(level="weights", subject=places[0], status="fail", message=message, places=places)
    wanted = weights | {name: nearest(weight, half) for name, weight in single.items()}
    return compare_weights(as_float32(contents), wanted, folds).check(f"{contents.how}, rounded to {half}")


@dataclass(frozen=True)
class Found:
    """Weights that were found in the files, how; those that differ, in words; those of which there is no trace."""

    explained: Counter[str]
    wrong: tuple[Difference, ...]
    missing: tuple[str, ...]

    def unexplained(self) -> Found:
        """The same of a file of which nobody knows what a tool folded into what: what differs counts as not there."""
        return replace(self, wrong=(), missing=(*self.missing, *(difference.place for difference in self.wrong)))

    def check(self, how: str) -> Check:
        """The finding; ``how`` says where weights were read from."""
        summary = ", ".join(f"{count} {way}" for way, count in self.explained.items()) or "none"
        if self.wrong:
            more = f"; and {len(self.wrong) - _SHOWN} more" if len(self.wrong) > _SHOWN else ""
            return Check(
                level="weights",
                subject=self.wrong[0].place,
                status="fail",
                message="; ".join(difference.message for difference in self.wrong[:_SHOWN]) + more,
                places=tuple(difference.place for difference in self.wrong),
            )
        if self.missing:
            message = f"{len(self.missing)} leave no trace in the {how}, first {self.missing[0]}; found: {summary}"
            return Check(level="weights", subject=self.missing[0], status="unchecked", message=message)
        message = f"{summary}; read from the {how}" if self.explained else "the model has no weights"
        return Check(level="weights", subject="files", status="pass", message=message)


def compare_weights(contents: Contents, weights: dict[str, Values], folded: list[Folded]) -> Found:
    """Every weight that the model uses, found in the artifact or explained."""
    explained: Counter[str] = Counter()
    wrong: list[Difference] = []
    missing: list[str] = []
    present = (fold for fold in folded if _find(fold.value, contents.weights, fold.tolerance))
    uses_up = {name: fold.how for fold in present for name in fold.uses}
    broken = _broken_folds(contents, weights, folded)
    beside = {name for fold in folded if fold.into in broken for name in fold.uses} - broken.keys()
    for name, weight in weights.items():
        stored = _by_name(contents.weights, name)
        if stored is not None and _same(weight, stored):
            explained["as they are"] += 1
        elif _find(weight, contents.weights, None):
            explained["under another name or order"] += 1
        elif name in broken:
            wrong += broken[name]
        elif name in uses_up:
            explained[uses_up[name]] += 1
        elif name in beside:
            continue  # what it was folded into says what differs
        elif (parts := _in_parts(weight, contents.weights)) is not None:
            if all(parts):
                explained["in parts"] += 1
            else:
                part = f"part {parts.index(False) + 1} of {len(parts)} (gates, or heads)"
                wrong.append(Difference(name, f"{name} differs in {part}"))
        elif (near := stored if stored is not None else _nearest(weight, contents.weights)) is not None:
            wrong.append(Difference(name, _difference(name, weight, near)))
        else:
            missing.append(name)
    return Found(explained, tuple(wrong), tuple(missing))


def _broken_folds(
    contents: Contents, weights: dict[str, Values], folded: list[Folded]
) -> dict[str, tuple[Difference, ...]]:
    """By the weight that holds it: what is wrong with a folded value, where the file shows that it was folded.

    It does if the weight is not the checkpoint's own, and the norm is no longer there. Nothing is said of a bias where
    the weight beside it tells that the norm differs.
    """
    broken: dict[str, tuple[str | None, Difference]] = {}
    for fold in folded:
        if fold.into not in weights or _find(weights[fold.into], contents.weights, None):
            continue
        if _find(fold.value, contents.weights, fold.tolerance):
            continue
        stored = _by_name(contents.weights, fold.into)
        if stored is None:
            stored = _nearest(fold.value, contents.weights)  # TorchScript keeps no names
        has_norm = fold.norm is not None and _by_name(contents.weights, fold.norm) is not None
        if stored is None or stored.shape != fold.value.shape or has_norm:
            continue
        if (difference := fold.difference(stored)) is not None:
            broken[fold.into] = (fold.norm, difference)
    norms = {norm for norm, difference in broken.values() if norm is not None and difference.place == norm}
    return {
        into: () if norm in norms and difference.place != norm else (difference,)
        for into, (norm, difference) in broken.items()
    }


def _probed(
    comparison: Found,
    missing: dict[str, Values],
    exported: torch.export.ExportedProgram | None,
    calls: Sequence[Call],
    hidden: str,
) -> Check | None:
    """What the answers say of weights that the files do not show; None where there is nothing to ask, or too much.

    ``hidden`` says why they do not.
    """
    floats = {name: weight for name, weight in missing.items() if is_floating(weight.dtype)}
    count = sum(weight.size for weight in floats.values())
    if comparison.wrong or not floats or exported is None or not calls or count > MOST_ELEMENTS:
        return None
    probed = probe(exported, floats, calls)
    if probed.off:
        name, off = max(probed.off.items(), key=lambda item: item[1])
        message = f"{name} is off by {off:.2g} of its largest value, as the answers tell: it is {hidden}"
        return Check(level="weights", subject=name, status="fail", message=message, places=tuple(probed.off))
    summary = ", ".join(f"{count} {way}" for way, count in comparison.explained.items())
    idle = f", {len(probed.without_influence)} without influence" if probed.without_influence else ""
    message = (
        f"{summary or 'none in the files'}; {len(floats)} {hidden}, probed through the answers: "
        f"none is off by more than {probed.sharpness:.1g}{idle}"
    )
    return Check(level="weights", subject="files", status="pass", message=message)


def _by_name(stored: dict[str, Values], name: str) -> Values | None:
    return next((stored[key] for key in (f"module.{name}", name) if key in stored), None)


def _same(weight: Values, stored: Values) -> bool:
    return weight.shape == stored.shape and weight.dtype == stored.dtype and weight.tobytes() == stored.tobytes()


def _find(wanted: Values, stored: dict[str, Values], tolerance: Values | None) -> bool:
    """Whether any stored tensor holds these values, as they are or with dimensions permuted; exactly, or to within."""
    return any(
        _agrees(wanted, candidate, tolerance, order)
        for candidate in stored.values()
        if candidate.size == wanted.size and (tolerance is not None or candidate.dtype == wanted.dtype)
        for order in orders(wanted)
    )


def _in_parts(weight: Values, stored: dict[str, Values]) -> list[bool] | None:
    """Which of a weight's equal parts lie somewhere in the files, where most of them do; None elsewhere.

    Recurrent layers are stored gate by gate, in an order that differs between PyTorch and ONNX.
    """
    blobs = [candidate.tobytes() for candidate in stored.values()]
    for count in _PARTS:
        if weight.ndim == 0 or len(weight) % count or weight.size < count * _LEAST_PART:
            continue
        parts = np.split(weight, count)
        if any((part == part.flat[0]).all() for part in parts):
            continue  # zeros are found everywhere
        present = [any(part.tobytes() in blob for blob in blobs) for part in parts]
        if sum(present) * 2 >= count:
            return present
    return None


def orders(values: Values) -> list[tuple[int, ...]]:
    """The orders of dimensions in which files may hold them; only their own where there are many."""
    if values.ndim > _MOST_PERMUTED_DIMS:
        return [tuple(range(values.ndim))]
    return list(permutations(range(values.ndim)))


def _agrees(wanted: Values, candidate: Values, tolerance: Values | None, order: tuple[int, ...]) -> bool:
    """Flat comparison: a reshape keeps the order of elements."""
    flat = candidate.ravel()
    turned = wanted.transpose(order).ravel()
    if tolerance is None:
        return turned.tobytes() == flat.tobytes()
    with np.errstate(invalid="ignore"):
        return bool((np.abs(turned - flat) <= tolerance.transpose(order).ravel()).all())


def _nearest(weight: Values, stored: dict[str, Values]) -> Values | None:
    """A stored tensor that is almost this weight; None if there is none."""
    if not is_floating(weight.dtype) or weight.size < 2:
        return None
    weight = weight.astype(np.float64)
    size = float(np.linalg.norm(weight)) or 1.0
    for candidate in stored.values():
        if candidate.size != weight.size or not is_floating(candidate.dtype):
            continue
        for order in orders(weight):
            turned = weight.transpose(order)
            if np.linalg.norm(turned.ravel() - candidate.ravel().astype(weight.dtype)) < _NEAR * size:
                inverse = np.argsort(order)
                return candidate.reshape(turned.shape).transpose(inverse)
    return None


def _difference(name: str, weight: Values, stored: Values) -> str:
    if weight.shape != stored.shape:
        return f"{name} must have shape {list(weight.shape)}, got {list(stored.shape)}"
    if weight.dtype != stored.dtype:
        return f"{name} must be {weight.dtype}, got {stored.dtype}"
    apart = weight != stored
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(weight.astype(np.float64) - stored.astype(np.float64))[apart].max(initial=0.0)
    return f"{name} differs from the checkpoint in {int(apart.sum())} of {weight.size} values, by up to {largest:.3g}"
