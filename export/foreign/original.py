"""An ONNX file in the place of the model: what other files, made from it, are held to.

In float32 ONNX Runtime computes it node by node, without rewriting the graph; in float64 (``module.double()``) its
widened graph, where ONNX Runtime has no kernel in double by ONNX's own definitions.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export.arrays import to_numpy, to_torch
from export.errors import UserError
from export.foreign.onnx import ports, read_whole
from export.foreign.ports import Port, plain

_NO_TRACE = "an ONNX file is no code of PyTorch's: it is not traced"


class OnnxOriginal(nn.Module):
    """The file as a module; its inputs are the parameters of ``forward``, its outputs a dict.

    Its weights are buffers (``weight_<number>``), so that files made from it can be compared with them.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        import onnx

        model = read_whole(file)
        self.serialized = model.SerializeToString()
        inputs, outputs = ports(model)
        self.inputs, self.output_names = inputs, [port.name for port in outputs]
        for number, tensor in enumerate(model.graph.initializer):
            values = onnx.numpy_helper.to_array(tensor).copy()
            self.register_buffer(f"weight_{number}", to_torch(values))
        self.register_buffer("precision", torch.zeros(1))  # which .double() reaches, also where there are no weights
        self._sessions: dict[torch.dtype, Any] = {}

    @property
    def dynamic(self) -> dict[str, tuple[str | None, ...]]:
        """By parameter: the name of every dimension that the file leaves open, None for one that it fixes."""
        return {
            parameter_name(port.name): tuple(_symbol(port, index, dim) for index, dim in enumerate(port.shape or ()))
            for port in self.inputs
        }

    @property
    def forward(self) -> Any:  # type: ignore[override]  # the parameters are the file's
        """The call, with the file's inputs as its parameters."""
        return _Call(self)

    def named(self, examples: Any) -> Any:
        """Example calls, the file's names as those of ``forward``'s parameters."""
        if isinstance(examples, list):
            return [self.named(example) for example in examples]
        if isinstance(examples, Mapping):
            return {parameter_name(str(name)): value for name, value in examples.items()}
        return examples

    def drawn(self, seed: int) -> dict[str, torch.Tensor]:
        """An example of normal floats, open dimensions of small sizes.

        Raises:
            UserError: an input of integers, of which nobody knows which are meant.
        """
        if integers := [port.name for port in self.inputs if not str(port.dtype).startswith(("float", "bfloat"))]:
            raise UserError(f"give examples: nobody knows what values {integers[0]} may take")
        sizes: dict[str, int] = {}
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for port in self.inputs:
            dims = [_symbol(port, index, dim) or dim for index, dim in enumerate(port.shape or ())]
            shape = [dim if isinstance(dim, int) else sizes.setdefault(str(dim), 3 + len(sizes)) for dim in dims]
            drawn[parameter_name(port.name)] = torch.randn(shape, generator=generator)
        return drawn

    def __getstate__(self) -> dict[str, Any]:
        """Without sessions, which belong to a process."""
        return {**self.__dict__, "_sessions": {}}

    def answer(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs by name; ``tensors`` are in the order of the file's inputs.

        Raises:
            UserError: while it is being traced.
        """
        if torch.compiler.is_compiling():
            raise UserError(_NO_TRACE)
        dtype = self.get_buffer("precision").dtype
        if dtype not in self._sessions:
            self._sessions[dtype] = self._session(is_wide=dtype == torch.float64)
        fed = {port.name: to_numpy(tensor) for port, tensor in zip(self.inputs, tensors, strict=True)}
        answers = self._sessions[dtype].run(self.output_names, fed)
        return {name: to_torch(np.asarray(array)) for name, array in zip(self.output_names, answers, strict=True)}

    def _session(self, *, is_wide: bool) -> Any:
        import onnx
        from onnx.reference import ReferenceEvaluator

        from export.backend import LoadOptions
        from export.foreign.float64 import in_float64
        from export.foreign.kernels import KERNELS
        from export.runtimes.onnxruntime import OnnxRuntimeOptions, open_session, refusals

        model = onnx.load_from_string(self.serialized)
        if is_wide:
            model = in_float64(model)
        threads = LoadOptions(threads_count=torch.get_num_threads())
        try:
            return open_session(model.SerializeToString(), threads, OnnxRuntimeOptions(optimization="off"))
        except refusals():
            if not is_wide:
                raise
            return ReferenceEvaluator(model, new_ops=KERNELS)


class _Call:
    """``forward`` of a file, with a signature that inspection can read."""

    def __init__(self, original: OnnxOriginal) -> None:
        self._original = original
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in original.dynamic]
        self.__signature__ = inspect.Signature(parameters)

    def __call__(self, *arguments: torch.Tensor, **keywords: torch.Tensor) -> dict[str, torch.Tensor]:
        bound = self.__signature__.bind(*arguments, **keywords)
        return self._original.answer(bound.args)


def parameter_name(name: str) -> str:
    """A name of ONNX as one of Python's."""
    return f"_{plain(name)}" if name[:1].isdigit() else plain(name)


def _symbol(port: Port, index: int, dim: int | str | None) -> str | None:
    """What a dimension is called; None where it is fixed."""
    if isinstance(dim, int):
        return None
    if dim is not None and dim.isidentifier():
        return dim
    return "batch" if index == 0 else f"{parameter_name(port.name)}_{index}"
