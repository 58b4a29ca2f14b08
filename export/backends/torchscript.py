"""TorchScript: the module scripted, else traced, frozen, and kept where it answers as the module does.

Deprecated upstream (PyTorch asks for torch.export); kept because C++ and mobile hosts still load it. Its deprecation
warnings are silenced here, the only file that touches ``torch.jit``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.arrays import to_numpy, to_torch
from export.backend import BuildInput, Loaded, LoadOptions
from export.device import HOST, Device, device
from export.foreign.graphs import TorchScriptFormat, call_of_graph
from export.runtimes.torch import TorchBackend

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.artifact import Artifact
    from export.contents import Contents, Setting
    from export.signature import Signature

FILE = "model.ts"
_SCRIPT, _TRACE = "script", "trace"
"""The roads, and the form of the file that each leaves."""


@dataclass(frozen=True, kw_only=True)
class TorchScript(TorchBackend):
    """A frozen graph in PyTorch's older format."""

    exporter: str = "script"
    file: str | None = FILE
    needs_program: bool = False
    build_cost: int = 15
    deployment_rank: int = 60

    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """Script the module as it is; where that does not work, trace it on the example, behind flat tensors.

        Raises:
            NoRoadError: neither works; the message holds both reasons.
        """
        import torch

        from export.flat import FlatModule
        from export.program import casts_in_view, quiet
        from export.roads import Road, first_that_works
        from export.runtimes.torch import TorchSession
        from export.trial import Trial

        module, path = source.module(), folder / FILE
        flat = FlatModule(module, source.signature).eval()
        trial = Trial(flat, source.signature, source.seed)

        def script() -> str:
            _save(scripted(module), path)
            return _SCRIPT

        def trace() -> str:
            example = source.signature.example(source.signature.example_sizes(), source.seed)
            with casts_in_view():
                _save(torch.jit.trace(flat, tuple(to_torch(array) for array in example.values())), path)
            return _TRACE

        def check(form: str) -> None:
            options = LoadOptions(threads_count=torch.get_num_threads())
            trial.check(TorchSession(_opened(path, form, source.signature, HOST), options))

        with torch.no_grad(), quiet():
            kept = first_that_works((Road(_SCRIPT, script, trust="fallback"), Road(_TRACE, trace)), check)
        return {"form": kept.built} | kept.facts

    def contents(self, artifact: Artifact, folder: Path) -> Contents | None:
        """The constants of the frozen graph, which have lost their names, and the watched settings of its operators."""
        import torch

        from export.contents import Contents
        from export.program import quiet

        with quiet():
            module = torch.jit.load(str(folder / FILE), map_location="cpu")
        graph = module.graph.copy()
        torch._C._jit_pass_inline(graph)
        kept = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for index, node in enumerate(graph.findAllNodes("prim::Constant")):
            value = node.output().toIValue()
            if isinstance(value, torch.Tensor):
                kept[f"constant {index}"] = value
        return Contents(
            how="frozen graph's constants",
            weights={name: to_numpy(tensor) for name, tensor in kept.items()},
            settings=tuple(setting for node in graph.nodes() for setting in _settings(node)),
            dialect="operators without scope",
        )

    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """The frozen graph on the device; a scripted one keeps the module's own arguments and nested result."""
        where = device(options.device)
        if artifact.is_foreign:
            graph = opened_graph(folder / FILE, where)
            return self.session(call_of_graph(graph.eval(), artifact.signature, artifact.facts), options)
        return self.session(_opened(folder / FILE, artifact.facts["form"], artifact.signature, where), options)


def scripted(module: nn.Module) -> Any:
    """The module compiled by TorchScript with its control flow; raises many types."""
    import torch

    return torch.jit.script(module)


def _save(graph: Any, path: Path) -> None:
    import torch

    torch.jit.freeze(graph.eval()).save(str(path))


def _opened(path: Path, form: str, signature: Signature, where: Device) -> Callable[..., Sequence[torch.Tensor]]:
    """The file's graph behind flat tensors: a scripted one keeps the module's own arguments and nested result."""
    from export.flat import FlatModule

    graph = opened_graph(path, where)
    if form == _SCRIPT:
        return FlatModule(graph, signature)

    def call(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        return tuple(graph(*tensors))

    return call


def opened_graph(path: Path, where: Device) -> nn.Module:
    """A file's module on a device, its deprecation warnings silenced.

    A trace holds the device on which ``forward`` made tensors as a constant of the graph: the CPU. Loading moves
    weights alone, so such constants are put to the device as well.

    Raises:
        RuntimeError: it is no TorchScript file.
    """
    import torch

    from export.program import quiet

    with quiet():
        graph: Any = torch.jit.load(str(path), map_location=where.torch_name)
    if where.kind != HOST.kind:
        make_tensors_on(graph, where)
    module: nn.Module = graph
    return module


def make_tensors_on(module: Any, where: Device) -> None:
    """Put every constant of a TorchScript module's graphs that is a device to another one, in place."""
    for graph in (part.graph for part in module.modules() if hasattr(part, "graph")):
        for node in graph.findAllNodes("prim::Constant"):
            if node.output().type().kind() == "DeviceObjType":
                node.s_("value", where.torch_name)


def _settings(node: Any) -> Iterator[Setting]:
    """The watched settings of a graph's node that are constants, and of the blocks within it."""
    import torch

    from export.contents import WATCHED, Setting, operator_kind, spell

    for block in node.blocks():
        for inner in block.nodes():
            yield from _settings(inner)
    kind = operator_kind(node.kind().removeprefix("aten::"))
    if not node.kind().startswith("aten::") or kind not in WATCHED:
        return
    names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]
    arguments = {name: _constant(value) for name, value in zip(names, node.inputs(), strict=False)}
    for name in WATCHED[kind]:
        if name != "dim" and (value := spell(kind, name, arguments, 0)) is not None:  # ranks are not kept
            yield Setting(scope="", operator=kind, name=name, value=value)


def _constant(value: Any) -> Any:
    """A constant, or a list of constants, that feeds a node; None if it is computed."""
    node = value.node()
    if node.kind() == "prim::ListConstruct":
        items = [_constant(item) for item in node.inputs()]
        return None if None in items else items
    return value.toIValue() if node.kind() == "prim::Constant" else None


BACKENDS = (TorchScript(name="torchscript", foreign=TorchScriptFormat(main_file=FILE)),)
