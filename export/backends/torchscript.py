"""TorchScript: the module scripted, else traced, then frozen.

Deprecated upstream (PyTorch asks for torch.export); kept because C++ and mobile hosts still load it. Its deprecation
warnings are silenced here, the only file that touches ``torch.jit``.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.arrays import to_torch
from export.backend import Backend, BuildInput, Loaded, LoadOptions
from export.device import device
from export.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.artifact import Artifact
    from export.contents import Contents, Setting

FILE = "model.ts"


@dataclass(frozen=True, kw_only=True)
class TorchScript(Backend):
    """A frozen graph in PyTorch's older format."""

    exporter: str = "script"
    file: str | None = FILE
    needs_program: bool = False
    build_cost: int = 15
    deployment_rank: int = 60

    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """Script the module as it is; where that fails, trace it on the example, behind flat tensors.

        Raises:
            UserError: neither worked; the message holds both reasons.
        """
        import torch

        from export.explanations import in_words
        from export.program import quiet

        module = source.module()
        facts: dict[str, str]
        with torch.no_grad(), quiet():
            try:
                scripted = torch.jit.script(module)
                facts = {"form": "script", "why": "scripted, so that control flow is kept; tracing was not needed"}
            except Exception as script_error:  # noqa: BLE001 - the script compiler raises many types; the cause is kept
                traceback.print_exc()
                facts = {"form": "trace", "why": f"not scripted: {in_words(script_error)}"}
            if facts["form"] == "trace":
                scripted = self._traced(module, source, facts["why"])
            torch.jit.freeze(scripted.eval()).save(str(folder / FILE))
        return facts

    @staticmethod
    def _traced(module: nn.Module, source: BuildInput, not_scripted: str) -> Any:
        """The module behind flat tensors, traced on the example."""
        import torch

        from export.explanations import in_words
        from export.program import FlatModule

        example = source.signature.example(source.signature.example_sizes(), source.seed)
        tensors = tuple(to_torch(array) for array in example.values())
        try:
            return torch.jit.trace(FlatModule(module, source.signature).eval(), tensors)
        except Exception as trace_error:
            raise UserError(f"{not_scripted}; not traced: {in_words(trace_error)}") from trace_error

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
            weights={name: tensor.detach().numpy() for name, tensor in kept.items()},
            settings=tuple(setting for node in graph.nodes() for setting in _settings(node)),
            dialect="operators without scope",
        )

    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """The frozen graph on the device; a scripted one keeps the module's own arguments and nested result."""
        import torch

        from export.program import FlatModule, quiet
        from export.runtimes.torch import TorchSession

        with quiet():
            graph: nn.Module = torch.jit.load(str(folder / FILE), map_location=device(options.device).torch_name)
        if artifact.facts["form"] == "script":
            return TorchSession(FlatModule(graph, artifact.signature), options)

        def call(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
            return tuple(graph(*tensors))

        return TorchSession(call, options)


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


BACKENDS = (TorchScript(name="torchscript"),)
