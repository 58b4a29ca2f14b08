"""An ONNX file that you have already: held to the model it was made from, or to the ONNX file it was made from.

    python examples/judge_onnx.py

A wrong weight, a frozen dimension or a lost precision is a reason in the file's row.
"""

import tempfile
from pathlib import Path

import onnxruntime
import torch
from torch import nn

import torchstone

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
examples = torch.randn(8, 10)

# What another tool would have left you: an export, and the same file after an optimiser.
folder = Path(tempfile.mkdtemp())
batch = ({0: torch.export.Dim("batch", max=1024)},)
torch.onnx.export(model, (examples,), folder / "model.onnx", dynamo=True, dynamic_shapes=batch, verbose=False)
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.optimized_model_filepath = str(folder / "optimised.onnx")
onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

# With the model: each file gets a row, and may win and ship like what is built here (none but the baseline, here).
judged = torchstone.export(
    model,
    examples,
    name="judge_onnx",
    backends=("eager",),
    artifacts={"mine": folder / "model.onnx", "optimised": folder / "optimised.onnx"},
    quiet=True,
)
print(judged)

# Without it: the first file in float64 is the truth. ``only="parity"`` measures nothing.
compared = torchstone.compare(folder / "model.onnx", folder / "optimised.onnx", only="parity", quiet=True)
print(compared)
