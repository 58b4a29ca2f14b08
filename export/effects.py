"""What a call does besides answering: it draws random numbers, or writes into its inputs; with the user's line."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ROOT = Path(__file__).resolve().parents[1]
_OWN = tuple(str(_ROOT / name) + "/" for name in ("export", "bench"))
_LIBRARY = re.compile(r"(^|/)(site-packages|dist-packages|torch|lib/python3[.\d]*)/|^<")


class Effects(TorchDispatchMode):
    """Watches the operators that run inside of it; ``inputs`` are tensors that nobody should write into."""

    def __init__(self, inputs: Mapping[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.random: tuple[str, str] | None = None
        """The first operator that drew random numbers, and the line."""
        self.written: dict[str, tuple[str, str]] = {}
        """By input: the first operator that wrote into it, and the line."""
        self._memory = {tensor.untyped_storage().data_ptr(): name for name, tensor in inputs.items() if tensor.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operator, as it would run without being watched."""
        if torch.Tag.nondeterministic_seeded in func.tags and self.random is None:
            self.random = str(func), users_line()
        for given, declared in zip(args, func._schema.arguments, strict=False):
            if declared.is_write and isinstance(given, torch.Tensor):
                name = self._memory.get(given.untyped_storage().data_ptr())
                if name is not None and name not in self.written:
                    self.written[name] = str(func), users_line()
        return func(*args, **(kwargs or {}))


def users_line() -> str:
    """``models.py:34: x += 1``: the innermost line of the call stack that is neither a library's nor ours."""
    frames = [
        frame
        for frame in traceback.extract_stack()
        if not _LIBRARY.search(frame.filename) and not frame.filename.startswith(_OWN)
    ]
    if not frames:
        return "no line of the model's own source"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {(frames[-1].line or '').strip()}"
