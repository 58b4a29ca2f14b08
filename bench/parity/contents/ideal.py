"""An artifact in half precision beside the ideal of that precision: the same program, rounded, in PyTorch's kernels.

They round every weight and every value between operators, and sum in float32. The truth is the model's in float64; the
unit of an artifact's error is the ideal's own, as eager's is for float32. The ideal's norms are not folded, so that it
shares no error of folding. What overflows in the program as it was built fails wherever it is run: a CPU may hide it by
computing in float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from bench.parity.cases import Values
from bench.parity.check import Check
from bench.parity.contents.opened import Opened
from bench.parity.contents.probe import Call
from export.arrays import to_numpy, to_torch
from export.contents import scope_of
from export.exporters.narrowing import OUTSIDE, halved_program, prepared, stored_as, unfolded_program
from export.float64 import Unguarded
from export.foreign.narrowed import half_of

_MOST_RMS, _MOST_PEAK = 2.0, 4.0
"""As of float32 beside eager: PyTorch's own compiled half precision reaches 1.0 of it, since it rounds less often."""
_NO_KERNEL = ("not implemented for", "Could not run '")
"""What PyTorch says of an operator without a kernel for a dtype, or for the CPU."""

Answers = tuple[dict[str, Values], dict[str, Values]]
"""The truth, and what is held to it, by output."""


def ideal_checks(opened: Opened, asked: Callable[[], Sequence[Call]]) -> Iterator[Check]:
    """The findings about each output of an artifact that was narrowed here; none of others.

    ``asked`` gives inputs, float64 answers and the artifact's own answers to a few calls of real rows. Where there is
    nothing to compare, that is inconclusive.
    """
    half = half_of(opened.artifact.precision)
    if half is None or opened.artifact.is_foreign:
        return
    program, calls = opened.traced, asked()
    if program is None or not calls:
        yield _unclear(f"no answers to real rows could be held to an ideal {half}'s")
        return
    outside = [name for name in opened.artifact.facts.get(OUTSIDE, "").split(", ") if name]
    names, dtype = opened.artifact.signature.output_names, getattr(torch, half)
    built = _Counting(halved_program(program, dtype, outside))
    has_norms = any("batch_norm" in str(node.target) for node in program.graph.nodes)
    try:
        ideal = built.answers(calls, names)
        if has_norms:
            ideal = _Counting(unfolded_program(program, dtype, outside)).answers(calls, names)
    except RuntimeError as error:
        message = " ".join(str(error).split())[:200]
        lacks = any(said in message for said in _NO_KERNEL)
        why = f"PyTorch has no {half} kernels for this model on the CPU" if lacks else f"the ideal {half} fails"
        yield _unclear(f"{why}: {message}")
        return
    if built.lost.total():
        plain = _Counting(prepared(program))
        plain.answers(calls, names)
        yield from _overflows(built, plain, half)
    for name in (spec.name for spec in opened.artifact.signature.outputs if spec.dtype == "float32"):
        yield from _ratios(name, ideal, [(wide, own) for _, wide, own in calls], half)


class _Counting(Unguarded):
    """Runs a program and counts, by node, the values that are not finite."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        module = program.module()
        super().__init__(module)
        self.nodes = list(module.graph.nodes)
        self.lost: Counter[str] = Counter()

    def run_node(self, n: torch.fx.Node) -> Any:
        """One node's value."""
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            self.lost[n.name] += value.numel() - int(value.isfinite().sum())
        return value

    def answers(self, calls: Sequence[Call], names: Sequence[str]) -> list[Answers]:
        """The truth of every call, and what the program answers."""
        with torch.no_grad():
            answered = [self.run(*[to_torch(array) for array in inputs.values()]) for inputs, _, _ in calls]
        return [
            (wide, {name: to_numpy(answer) for name, answer in zip(names, answers, strict=True)})
            for (_, wide, _), answers in zip(calls, answered, strict=True)
        ]


def _overflows(built: _Counting, plain: _Counting, half: str) -> Iterator[Check]:
    """The first value that is finite in the model and not in half precision; a cast is held to what it casts."""
    nodes = {node.name for node in plain.nodes}
    for node in built.nodes:
        same = node.name if node.name in nodes or not node.all_input_nodes else node.all_input_nodes[0].name
        count = built.lost[node.name] - plain.lost[same]
        if count > 0:
            place = f"{same} in {scope}" if (scope := scope_of(node)) else same
            message = (
                f"{place}: {count} values on real rows are past what {half} holds, and finite in the model: give the "
                "recipe data that reaches as far, so that the build keeps them in float32"
            )
            yield Check(level="fidelity", subject=same, status="fail", message=message, places=(same,), value=count)
            return


def _ratios(name: str, ideal: Sequence[Answers], own: Sequence[Answers], half: str) -> Iterator[Check]:
    """One output's errors in units of the ideal's."""
    floor = _error([(wide, {name: wide[name].astype(np.float32)}) for wide, _ in own], name)
    units = np.maximum(_error(ideal, name), floor)
    if not np.isfinite(units).all():
        yield _unclear(f"{name}: an ideal {half} itself answers what is not finite, where the model is")
        return
    figures = zip(("RMS", "largest"), _error(own, name), units, (_MOST_RMS, _MOST_PEAK), strict=True)
    for kind, value, unit, most in figures:
        ratio = in_units(value, float(unit))
        yield Check(
            level="fidelity",
            subject=name,
            status="pass" if ratio <= most else "fail",
            message=f"{name}: {kind} error is {ratio:.3g} times an ideal {half}'s on real rows, at most {most:g}",
            value=ratio,
            limit=most,
        )


def dtype_checks(opened: Opened) -> Iterator[Check]:
    """That the files show the artifact's half precision, and cast to no other that is not the program's own."""
    half = half_of(opened.artifact.precision)
    if half is None or opened.artifact.is_foreign:
        return
    contents = opened.contents
    casts = set(contents.casts) if contents is not None else set()
    if contents is None or half not in {*stored_as(contents), *casts}:
        yield _unclear(f"{half} was asked for, and nothing that could be read in the files shows it")
    others = casts - {half, "float32", "float64"}
    if others and opened.traced is not None:
        others -= _own_kinds(opened.traced)
    if others:
        message = f"{half} was asked for, and values are cast to {', '.join(sorted(others))}"
        yield Check(level="fidelity", subject="casts", status="fail", message=message)


def _own_kinds(program: torch.export.ExportedProgram) -> set[str]:
    """The dtypes of the program's own values, and those that it casts to, blocks of control flow included."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, GraphModule)]
    leaves = [
        leaf
        for graph in graphs
        for node in graph.nodes
        for leaf in pytree.tree_leaves((node.args, node.kwargs, node.meta.get("val")))
    ]
    kinds = {getattr(leaf, "dtype", leaf) for leaf in leaves if isinstance(leaf, torch.dtype | torch.Tensor)}
    return {str(kind).removeprefix("torch.") for kind in kinds}


def _unclear(message: str) -> Check:
    return Check(level="fidelity", subject="ideal", status="inconclusive", message=message)


def in_units(error: float, unit: float) -> float:
    """An error in units of the ideal's; infinite where that has none and there is one."""
    if unit:
        return error / unit
    return float("inf") if error else 0.0


def _error(pairs: Sequence[Answers], name: str) -> tuple[float, float]:
    """RMS and largest difference from the truth where that is finite; infinite where what is held to it is not."""
    off = np.concatenate(
        [np.abs(wide[name] - got[name].astype(np.float64))[np.isfinite(wide[name])] for wide, got in pairs]
    )
    if not np.isfinite(off).all():
        return float("inf"), float("inf")
    return (float(np.sqrt(np.square(off).mean())), float(off.max())) if off.size else (0.0, 0.0)
