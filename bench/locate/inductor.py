"""Faults made by Inductor: the shortest beginning of the program that, compiled, departs from eager."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.locate.compared import LIMIT, local_ratio
from export.arrays import to_numpy, to_torch
from export.taps.trace import Trace

Compile = Callable[[torch.fx.GraphModule], Callable[..., Any]]


def compiled_fault(
    exported: torch.export.ExportedProgram,
    trace: Trace,
    inputs: Sequence[np.ndarray[Any, Any]],
    compile_graph: Compile | None = None,
) -> str | None:
    """The name of the first value that goes wrong when compiled; None if the whole is right.

    Bisection: a value that is wrong makes what follows from it wrong. Each step compiles once.
    """
    names = [name for name in trace.nodes if trace.is_tensor(name)]
    ends = [name for name in trace.outputs if name in names]
    tensors = [to_torch(array) for array in inputs]
    compiler = compile_graph or (lambda graph: torch.compile(graph, fullgraph=True, dynamic=True))

    def wrong(name: str) -> bool:
        shortened = _up_to(exported, name)
        with torch.inference_mode():
            got = compiler(shortened)(*tensors)
        truth, eager = trace.values[name], trace.local(name, trace.inputs)[1]
        return local_ratio(to_numpy(truth), to_numpy(eager), to_numpy(got)) > LIMIT

    bad = next((name for name in ends if wrong(name)), None)
    if bad is None:
        return None
    low, high = 0, names.index(bad)
    while low < high:
        middle = (low + high) // 2
        if wrong(names[middle]):
            high = middle
        else:
            low = middle + 1
    return names[high]


def _up_to(exported: torch.export.ExportedProgram, name: str) -> torch.fx.GraphModule:
    """The program's module, returning one of its inner values."""
    module = copy.deepcopy(exported.module())
    assert isinstance(module, torch.fx.GraphModule)
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
    wanted = next(node for node in module.graph.nodes if node.name == name)
    module.graph.output_node().args = (wanted,)
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
