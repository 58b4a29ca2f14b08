"""A gate for continuous integration: exit code 1 where the export is not the model, or breaks a limit.

    python examples/ci_gate.py > verdict.json

From a shell, for a function that returns the model:
``torchstone check nets.py:build --inputs real.npz --limits.max-size-mb 1 --json``. Exit code 0, 1, or 2 where inputs
or the machine are to blame; what it prints is the whole verdict.
"""

import json
import sys

import torch
from torch import nn

import torchstone

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
result = torchstone.check(
    model,
    torch.randn(16, 20),
    name="ci_gate",
    backends=("eager", "onnx"),
    required=("onnx",),
    limits=torchstone.Limits(max_size_mb=1),
    bench=torchstone.BenchSpec(batch_rows=(1,), processes_count=2, cold_starts_count=0),
    quiet=True,
)
rows = {row.name: {"status": row.status, "reasons": row.reasons} for row in result}
print(json.dumps({"good": result.good, "winner": result.winner, "rows": rows}, indent=2))
sys.exit(not result.good)
