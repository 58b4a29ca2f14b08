"""A model in a script: every export proved right and measured, the best one shipped with its proof.

    python examples/check_model.py

Nothing but the module with its weights and one example of its inputs is needed.
"""

import torch
from torch import nn

import torchstone

torch.manual_seed(0)  # the same weights every time: what is done once is not done again
model = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 3))
examples = torch.randn(32, 6)

result = torchstone.check(
    model,
    examples,
    name="check_model",
    backends=("eager", "torchscript", "onnx"),  # left out: all that work on every machine
    bench=torchstone.BenchSpec(batch_rows=(1, 32), processes_count=2, cold_starts_count=0),  # a glance
)
print(result)  # the table, and what was assumed of the inputs
print(f"winner: {result.winner}; the page: {result.report}")
if result.good:
    print(f"shipped: {result.save('serving')}")
