"""Export a PyTorch model every way it can be deployed, prove each export right, measure it, ship the best.

import torchstone

result = torchstone.check(model, (ids, mask))
print(result)
result["onnx"].path
result.save("serving/")
"""

from __future__ import annotations

import runpy
from pathlib import Path

_SHADOW = Path(__file__).resolve().parents[1] / "pipeline" / "shadow.py"
"""Run by its place, since ``pipeline`` may be the very name that a file of the user's bears."""
runpy.run_path(str(_SHADOW))["claim_names"]("start in another folder")

from bench.parity.spec import ParitySpec  # noqa: E402
from bench.timing.spec import BenchSpec  # noqa: E402
from bench.verdict.limits import Limits  # noqa: E402
from export.backend import Runner  # noqa: E402
from export.errors import ContractError, RecordError, TorchstoneError, UserError  # noqa: E402
from export.signature import Signature, SizeRange, TensorSpec  # noqa: E402
from export.version import VERSION  # noqa: E402
from export.worker import ProcessLimits  # noqa: E402
from pipeline.recipe import Data, Recipe, Split, TrainSpec  # noqa: E402
from torchstone.api import check, compare, export  # noqa: E402
from torchstone.result import Result, Row  # noqa: E402
from torchstone.runner import load  # noqa: E402

__version__ = VERSION
__all__ = [
    "BenchSpec", "ContractError", "Data", "Limits", "ParitySpec", "ProcessLimits", "Recipe", "RecordError", "Result",
    "Row", "Runner", "Signature", "SizeRange", "Split", "TensorSpec", "TorchstoneError", "TrainSpec", "UserError",
    "__version__", "check", "compare", "export", "load",
]  # fmt: skip
