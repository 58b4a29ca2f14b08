"""Export a PyTorch model every way it can be deployed, prove each export right, measure it, ship the best.

import torchstone

result = torchstone.check(model, (ids, mask))
print(result)
result["onnx"].path
result.save("serving/")

A name is imported when it is first used: importing torchstone alone imports no torch.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

_SHADOW = Path(__file__).resolve().parents[1] / "pipeline" / "process" / "shadow.py"
"""Run by its place, since ``pipeline`` may be the very name that a file of the user's bears."""
try:
    runpy.run_path(str(_SHADOW))["claim_names"]("start in another folder")
except ImportError as error:
    if sys.argv[:1] != ["-m"] or "torchstone" not in sys.orig_argv:
        raise
    print(f"error: {error}", file=sys.stderr)  # ``python -m torchstone`` is a command, which ends as commands do
    raise SystemExit(2) from None

from export.version import VERSION  # noqa: E402

if TYPE_CHECKING:
    from bench.parity.spec import ParitySpec
    from bench.timing.spec import BenchSpec
    from bench.verdict.limits import Limits
    from export.backend import Runner
    from export.errors import ContractError, RecordError, TorchstoneError, UserError
    from export.signature import Signature, SizeRange, TensorSpec
    from export.worker import ProcessLimits
    from pipeline.recipe import Data, Recipe, Split, TrainSpec
    from torchstone.api import check, compare, export
    from torchstone.result import Result, Row
    from torchstone.runner import load

__version__ = VERSION
__all__ = [
    "BenchSpec", "ContractError", "Data", "Limits", "ParitySpec", "ProcessLimits", "Recipe", "RecordError", "Result",
    "Row", "Runner", "Signature", "SizeRange", "Split", "TensorSpec", "TorchstoneError", "TrainSpec", "UserError",
    "__version__", "check", "compare", "export", "load",
]  # fmt: skip
_HOMES = {
    "bench.parity.spec": ("ParitySpec",),
    "bench.timing.spec": ("BenchSpec",),
    "bench.verdict.limits": ("Limits",),
    "export.backend": ("Runner",),
    "export.errors": ("ContractError", "RecordError", "TorchstoneError", "UserError"),
    "export.signature": ("Signature", "SizeRange", "TensorSpec"),
    "export.worker": ("ProcessLimits",),
    "pipeline.recipe": ("Data", "Recipe", "Split", "TrainSpec"),
    "torchstone.api": ("check", "compare", "export"),
    "torchstone.result": ("Result", "Row"),
    "torchstone.runner": ("load",),
}
"""By module the names that are taken from it."""

if not TYPE_CHECKING:  # a checker of types would take it for a promise of every name

    def __getattr__(name: str) -> object:
        """A public name, imported now and kept."""
        for home, names in _HOMES.items():
            if name in names:
                globals()[name] = getattr(importlib.import_module(home), name)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
