"""Settings of an artifact's operators, compared with the traced program's: epsilon, axis, padding and others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.parity.check import Check
from bench.parity.contents import Difference
from bench.parity.contents.opened import Opened
from export.contents import Contents, Setting, graph_settings, operator_settings

if TYPE_CHECKING:
    import torch

Place = tuple[str, str, str]
"""Module, operator and setting."""
Grouped = dict[Place, Counter[str]]
_DIFFERENCES_SHOWN = 3


def settings_check(opened: Opened) -> Check:
    """The finding of the level ``attributes``."""
    if opened.contents is None:
        message = f"{opened.artifact.backend} keeps no settings of its own"
        return Check(level="attributes", subject="files", status="unchecked", message=message)
    check = compare_settings(opened.contents, opened.traced)
    if check.status == "fail" and opened.artifact.is_foreign:  # an optimiser may move a padding to another operator
        return replace(check, status="unchecked", message=f"made elsewhere, which may be why {check.message}")
    return check


def compare_settings(contents: Contents, exported: torch.export.ExportedProgram | None) -> Check:
    """Settings of operators against the traced program's, where both sides state them for the same module."""
    if contents.dialect == "none" or exported is None:
        why = "the model could not be traced" if exported is None else f"not stated by the {contents.how}"
        return Check(level="attributes", subject="files", status="unchecked", message=why)
    expected = _grouped(graph_settings(exported) if contents.dialect == "graph" else operator_settings(exported))
    actual = _grouped(contents.settings)
    if contents.dialect == "operators without scope":
        expected, actual = _without_scope(expected), _without_scope(actual)
    compared_count, differences = _compare(expected, actual, whole=contents.dialect == "graph")
    if differences:
        return Check(
            level="attributes",
            subject=differences[0].place or "files",
            status="fail",
            message="; ".join(difference.message for difference in differences[:_DIFFERENCES_SHOWN]),
            places=tuple(dict.fromkeys(difference.place for difference in differences)),
        )
    message = (
        f"{compared_count} settings equal the program's"
        if compared_count
        else "no operator whose settings can be compared"
    )
    return Check(level="attributes", subject="files", status="pass" if compared_count else "unchecked", message=message)


def _compare(expected: Grouped, actual: Grouped, *, whole: bool) -> tuple[int, list[Difference]]:
    """How many settings were compared, and those that differ; ``whole`` where each side states every node."""
    differences = []
    compared_count = 0
    for (scope, operator, name), values in actual.items():
        wanted = expected.get((scope, operator, name))
        if wanted is None:
            if whole:
                differences.append(Difference(scope, f"{scope} ({operator}) is no node of the traced program"))
            continue
        if values.total() != wanted.total() and not whole:
            continue  # an exporter lowers one operator to several, or drops one: which is which cannot be told
        compared_count += values.total()
        if unknown := values - wanted:
            there, here = sorted((wanted - values) or wanted), sorted(unknown)
            where = f" in {scope}" if scope else ""
            differences.append(Difference(scope, f"{name} of {operator}{where} must be {there[0]}, got {here[0]}"))
    if whole:
        missing = expected.keys() - actual.keys()
        differences += [Difference(scope, f"{scope} ({operator}) is missing") for scope, operator, _ in sorted(missing)]
    return compared_count, differences


def _grouped(settings: Iterable[Setting]) -> Grouped:
    groups: Grouped = {}
    for setting in settings:
        groups.setdefault((setting.scope, setting.operator, setting.name), Counter())[setting.value] += 1
    return groups


def _without_scope(groups: Grouped) -> Grouped:
    merged: Grouped = {}
    for (_, operator, name), values in groups.items():
        merged.setdefault(("", operator, name), Counter()).update(values)
    return merged
