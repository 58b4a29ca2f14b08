"""A program compiled once for every size by Inductor's standalone compiler: a call traces nothing and asks no guards.

``torch.compile`` asks its guards and binds its arguments at every call, which costs a small model more than its
arithmetic. A standalone artifact is a function of weights and inputs, and checks nothing of them: where Inductor took
sizes for granted, or what it made cannot be saved, ``build`` raises, and the caller compiles another way.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import UserError

if TYPE_CHECKING:
    import torch

    from export.program import FlatCall

_INDEXES = ("aotautograd", "fxgraph", "locks")
"""What the artifact saves of itself, or nobody needs; the rest of Inductor's cache are the kernels that it calls."""


def build(exported: torch.export.ExportedProgram, cache: Path, kept: Path) -> None:
    """Compile into ``kept``; ``cache`` is Inductor's own for this process (export/exporters/inductor.py), and empty.

    Raises:
        UserError: the compiler took sizes for granted.
        RuntimeError: what it made cannot be saved, such as a branch.
    """
    import torch
    from torch._guards import TracingContext, detect_fake_mode, tracing
    from torch._inductor import config

    examples = [node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"]
    mode = detect_fake_mode(examples)
    if mode is None or mode.shape_env is None:
        raise UserError("the program does not say which sizes its tensors have")
    env, known_count = mode.shape_env, len(mode.shape_env.guards)
    ranges = exported.range_constraints
    sizes = {dim.node.expr for example in examples for dim in getattr(example, "shape", ()) if not isinstance(dim, int)}
    lowest = {symbol: max(2, bounds.lower) if symbol in sizes else bounds.lower for symbol, bounds in ranges.items()}

    def check() -> None:
        guards = [guard.expr for guard in env.guards[known_count:]]
        if granted := [str(guard) for guard in guards if not _always_holds(guard, lowest, ranges)]:
            raise UserError(f"Inductor's standalone compiler takes for granted that {' and '.join(granted)}")

    # With symbols of its own, as by default, the compiler would take sizes for one that are equal in the example.
    with torch.no_grad(), tracing(TracingContext(mode)), config.patch(post_grad_custom_pre_pass=_pass(check)):
        try:
            artifact = torch._inductor.standalone_compile(
                exported.graph_module, examples, dynamic_shapes="from_tracing_context"
            )
        finally:
            check()  # in its own words, where the compiler wrapped what the pass raised
    artifact.save(path=str(kept), format="unpacked")
    # Its kernels, which loading would compile once more.
    shutil.copytree(cache, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_INDEXES))


def load(exported: torch.export.ExportedProgram, kept: Path) -> FlatCall:
    """The artifact as a function of the program's flat inputs; ``kept``, which can execute code, was verified."""
    from torch._inductor.standalone_compile import CompiledArtifact

    compiled = CompiledArtifact.load(path=str(kept), format="unpacked")
    weights = _weights(exported)

    def call(*inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        outputs: Sequence[torch.Tensor] = compiled(*weights, *inputs)
        return outputs

    return call


def _pass(check: Callable[[], None]) -> Any:
    """A check of what was taken for granted so far, before there are kernels: most of it is, and they take longest."""
    from torch._inductor.custom_graph_pass import CustomGraphPass

    class Checked(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            check()

        def uuid(self) -> str:
            return __name__  # it changes no graph

    return Checked()


def _always_holds(guard: Any, lowest: Mapping[Any, Any], ranges: Mapping[Any, Any]) -> bool:
    """Whether a guard can be shown to be true wherever symbols are not below ``lowest``: by its bounds, or by signs.

    Of a symbol that is itself a size that is 2, or what is declared: at 1 strides say nothing, and PyTorch's own
    programs are traced as if no size were 1. The trial calls at it.
    """
    import sympy
    from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

    sizes = {symbol: ValueRanges(low, max(low, ranges[symbol].upper)) for symbol, low in lowest.items()}
    if bound_sympy(guard, sizes) == ValueRanges.wrap(True):
        return True
    if not isinstance(guard, sympy.core.relational.Relational):
        return False
    above = {symbol: low + sympy.Dummy(nonnegative=True, integer=True) for symbol, low in lowest.items()}
    return bool(guard.func(sympy.expand((guard.lhs - guard.rhs).subs(above)), 0) == sympy.true)


def _weights(exported: torch.export.ExportedProgram) -> list[Any]:
    """What stands before the inputs, in the graph's order."""
    kinds = ("PARAMETER", "BUFFER", "CONSTANT_TENSOR")
    named = {**exported.constants, **exported.state_dict}
    specs = [spec for spec in exported.graph_signature.input_specs if spec.kind.name in kinds]
    return [named[spec.target].detach() for spec in specs if spec.target is not None]
