"""What a call does besides answering: it draws random numbers, or writes into its inputs; with the user's line."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from export.explanations import users_line


class Effects(TorchDispatchMode):
    """Watches the operators that run inside of it; ``inputs`` are tensors that nobody should write into."""

    supports_higher_order_operators = True

    def __init__(self, inputs: Mapping[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.random: tuple[str, str] | None = None
        """The first operator that drew random numbers, and the line."""
        self.written: dict[str, tuple[str, str]] = {}
        """By input: the first operator that wrote into it, and the line."""
        self._memory = {tensor.untyped_storage().data_ptr(): name for name, tensor in inputs.items() if tensor.numel()}

    def __exit__(self, *raised: Any) -> None:
        """End the watch; what was compiled meanwhile (a branch, a loop) would be refused wherever nobody watches."""
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        torch.compiler.reset()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operator, as it would run without being watched."""
        if isinstance(func, HigherOrderOperator):  # a branch or a loop: what is inside of it is not watched
            return func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and self.random is None:
            self.random = str(func), _line()
        for given, declared in zip(args, func._schema.arguments, strict=False):
            if declared.is_write and isinstance(given, torch.Tensor):
                name = self._memory.get(given.untyped_storage().data_ptr())
                if name is not None and name not in self.written:
                    self.written[name] = str(func), _line()
        return func(*args, **(kwargs or {}))


def _line() -> str:
    """Where the user's code is at this moment."""
    return users_line("".join(traceback.format_stack())) or "no line of the model's own source"
