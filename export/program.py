"""Capture: the user's module becomes a Program, a traced graph that takes and returns flat named tensors.

The Program is what every source-free artifact is made from. It is saved with ``torch.export``, and read back after its
hash verified.
"""

from __future__ import annotations

import copy
import hashlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.arrays import dtype_name
from export.capture_failure import explain
from export.capture_roads import Capture, captured
from export.completion import points, refine
from export.device import HOST, Device
from export.errors import UserError
from export.flat import FlatModule
from export.roads import NoRoadError
from export.signature import Signature

FlatCall = Callable[..., Sequence[torch.Tensor]]
_KNOWN_SHAPES = 4096
_MOST_KEPT_BYTES = 64 << 20
_kept: dict[bytes, torch.export.ExportedProgram] = {}
"""By the digest of its file: the last program that was read, as it was read."""
_GUARDS = "_guards_fn"
"""What ``module()`` calls the check of its guards, which takes all flat inputs."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A traced model: ``exported`` takes and returns the tensors of ``signature``, in its order."""

    exported: torch.export.ExportedProgram
    signature: Signature
    facts: dict[str, str]
    """The road that was taken, and what those before it said; see export/roads.py."""


def capture(module: nn.Module, signature: Signature, seed: int) -> Program:
    """Trace a CPU copy of ``module`` in eval mode; ``signature`` is complete.

    Raises:
        UserError: a declared dynamic dimension that the model or the tracer fixes, named; or code that cannot be
            traced, with PyTorch's own words.
    """
    flat = FlatModule(copy.deepcopy(module).cpu().eval(), signature)
    answered = points(module, signature, seed)
    accept = partial(refine, signature, answered=answered)
    try:
        with quiet():
            kept = captured(Capture(flat=flat, signature=signature, seed=seed, accept=accept))
    except NoRoadError as none:
        raise UserError(explain(none, signature)) from none.refusals[0].error
    return Program(exported=kept.built, signature=refine(signature, kept.built, answered), facts=kept.facts)


def precision(module: nn.Module, signature: Signature) -> str:
    """The floating dtypes that a module computes in: its weights', its inputs' where it has none."""
    dtypes = {dtype_name(tensor) for tensor in module.state_dict().values() if tensor.is_floating_point()}
    dtypes = dtypes or {spec.dtype for spec in signature.inputs if spec.dtype.startswith("float")}
    return "+".join(sorted(dtypes)) or "none"


def load_exported(path: Path) -> torch.export.ExportedProgram:
    """Read a file whose hash the caller has verified; none of its code runs, whoever made it (export/archive.py).

    The last small one is kept, and copied for whoever asks for the same bytes again: torch takes seconds to read a few
    hundred operators with open sizes, and a hundredth of that to copy them.

    Raises:
        RecordError: the file could run code, or is not a program as torch saves it.
    """
    data = path.read_bytes()
    if len(data) > _MOST_KEPT_BYTES:
        return _loaded(data, path)
    digest = hashlib.sha256(data).digest()
    if (kept := _kept.get(digest)) is None:
        kept = _loaded(data, path)
        _kept.clear()
        _kept[digest] = kept
    with quiet():
        return copy.deepcopy(kept)


def _loaded(data: bytes, path: Path) -> torch.export.ExportedProgram:
    from export.archive import checked_program  # with SymPy, which takes a second of every process that imports it

    stream = checked_program(data, path)
    with quiet():
        exported = torch.export.load(stream)
    _forget_derived_sizes(exported)
    return exported


def _forget_derived_sizes(exported: torch.export.ExportedProgram) -> None:
    """Keep ranges and values of symbols alone: loading notes those of other sizes, such as ``4*height``, as well.

    PyTorch's own passes take every key for a symbol (``run_decompositions`` in torch 2.13: "expected sympy.Symbol").
    Examples are known as ``backed_var_to_val``, before torch 2.12 as ``var_to_val``.
    """
    import sympy
    from torch._guards import detect_fake_mode

    values = [node.meta.get("val") for node in exported.graph.nodes]
    mode = detect_fake_mode([value for value in values if isinstance(value, torch.Tensor)])
    sizes = getattr(mode, "shape_env", None)
    examples = "backed_var_to_val" if hasattr(sizes, "backed_var_to_val") else "var_to_val"
    for known in (getattr(sizes, name, {}) for name in ("var_to_range", examples)):
        for size in [size for size in known if not isinstance(size, sympy.Symbol)]:
            del known[size]


def on_device(exported: torch.export.ExportedProgram, where: Device) -> torch.export.ExportedProgram:
    """The same program with its weights and constants there."""
    if where.torch_name == HOST.torch_name:
        return exported
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(exported, where.torch_name)


def flat_call(exported: torch.export.ExportedProgram) -> FlatCall:
    """The program as a function of its flat tensors: ``module()`` takes nested arguments apart at every call.

    Guards hold what the tracer took for granted of several sizes together, which no signature says. A compiler needs
    them too: they tell it which sizes never vary.
    """
    return _flat(exported.module())


def checked_call(exported: torch.export.ExportedProgram) -> FlatCall:
    """The flat call, its guards asked once for all calls of the same shapes: they cost more than a small model does.

    Raises:
        AssertionError: when it is called with shapes that a guard refuses.
    """
    module = exported.module()
    guards = [node for node in module.graph.nodes if node.op == "call_module" and node.target == _GUARDS]
    for node in guards:
        module.graph.erase_node(node)
    bare = _flat(module)
    if not guards:
        return bare
    ask, asking, known = getattr(module, _GUARDS), threading.Lock(), set[tuple[torch.Size, ...]]()

    def call(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in known:
            with asking:  # torch 2.11 sets a global option while it asks
                ask(*tensors)
            if len(known) >= _KNOWN_SHAPES:
                known.clear()
            known.add(shapes)
        return bare(*tensors)

    return call


def _flat(module: torch.fx.GraphModule) -> FlatCall:
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    forward: FlatCall = module.forward
    return forward


def casts_in_view() -> AbstractContextManager[Any]:
    """Autocast inside a model casts its weights at every use: a trace would keep those that it has cast before."""
    return torch.autocast("cpu", enabled=False, cache_enabled=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what PyTorch says to its own developers: deprecations inside its exporters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
