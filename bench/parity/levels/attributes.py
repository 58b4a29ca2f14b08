"""Settings of an artifact's operators, compared with the traced program's: epsilon, axis, padding and others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.parity.check import Check
from export.contents import Contents, Setting, graph_settings, operator_settings

if TYPE_CHECKING:
    import torch

Place = tuple[str, str, str]
"""Module, operator and setting."""
Grouped = dict[Place, Counter[str]]


def compare_settings(contents: Contents, exported: torch.export.ExportedProgram | None) -> Check:
    """Settings of operators against the traced program's, where both sides state them for the same module."""
    if contents.dialect == "none" or exported is None:
        why = "the model could not be traced" if exported is None else f"not stated by the {contents.how}"
        return Check(level="attributes", subject="files", status="unchecked", message=why)
    expected = _grouped(graph_settings(exported) if contents.dialect == "graph" else operator_settings(exported))
    found = _grouped(contents.settings)
    if contents.dialect == "operators without scope":
        expected, found = _without_scope(expected), _without_scope(found)
    wrong = []
    compared = 0
    for place, values in found.items():
        if place not in expected:
            if contents.dialect == "graph":
                wrong.append(f"{place[0]} ({place[1]}) is no node of the traced program")
            continue
        if values.total() != expected[place].total() and contents.dialect != "graph":
            continue  # an exporter lowers one operator to several, or drops one: which is which cannot be told
        compared += values.total()
        if unknown := values - expected[place]:
            scope, operator, name = place
            there, here = sorted((expected[place] - values) or expected[place]), sorted(unknown)
            wrong.append(f"{name} of {operator}{f' in {scope}' if scope else ''} must be {there[0]}, got {here[0]}")
    if contents.dialect == "graph":
        wrong += [f"{place[0]} ({place[1]}) is missing" for place in expected.keys() - found.keys()]
    if wrong:
        subject = wrong[0].split(" ")[0]
        return Check(level="attributes", subject=subject, status="fail", message="; ".join(wrong[:3]))
    message = f"{compared} settings equal the program's" if compared else "no operator whose settings can be compared"
    return Check(level="attributes", subject="files", status="pass" if compared else "unchecked", message=message)


def _grouped(settings: Iterable[Setting]) -> Grouped:
    groups: Grouped = {}
    for one in settings:
        groups.setdefault((one.scope, one.operator, one.name), Counter())[one.value] += 1
    return groups


def _without_scope(groups: Grouped) -> Grouped:
    merged: Grouped = {}
    for (_, operator, name), values in groups.items():
        merged.setdefault(("", operator, name), Counter()).update(values)
    return merged
