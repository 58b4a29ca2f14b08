"""ONNX in int8: static, per channel, ranges from training data (QDQ form), by ONNX Runtime's own tool.

An int8 artifact does not compute the same function, so parity holds it to the recipe's metric and to its
signal-to-noise ratio instead.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.exporters.onnx import export_program
from export.exporters.quantize import PRECISION, calibration_calls, refuse_unquantized
from export.runtimes.onnxruntime import OnnxSession, quantize_file, runtime_missing

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact
    from export.backend import BuildInput, Loaded, LoadOptions, Threads
    from export.contents import Contents

SOURCE_FREE = True
DEVICE_BOUND = False
NEEDS_PROGRAM = True
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")
MODULES = ("onnxruntime",)
THREADS: Threads = "session"
FILE = "model.onnx"


def unavailable(device: str) -> str | None:
    """Whether an ONNX Runtime is installed, and has the device's provider."""
    return runtime_missing(device)


def build(source: BuildInput, folder: Path) -> dict[str, str]:
    """Export the traced program, then quantise weights and activations of its matrix products and convolutions."""
    calls = list(calibration_calls(source))
    with tempfile.TemporaryDirectory(prefix="torchstone-int8-") as scratch:
        plain = Path(scratch) / FILE
        facts = export_program(source, plain)
        quantized_count = quantize_file(plain, folder / FILE, calls)
    refuse_unquantized(quantized_count, "matrix product or convolution with weights")
    rows_count = str(sum(len(next(iter(call.values()))) for call in calls))
    return facts | {
        "form": "ONNX, int8 QDQ per channel",
        "precision": PRECISION,
        "quantized": str(quantized_count),
        "calibration_rows": rows_count,
    }


def contents(artifact: Artifact, folder: Path) -> Contents | None:
    """Initializers and constants by name, and the watched settings of nodes whose module the exporter recorded."""
    from export.exporters.onnx_file import read_contents

    return read_contents(folder / FILE)


def load(artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
    """A session on the file; on CUDA a node that would run on the CPU is an error."""
    return OnnxSession(folder / FILE, artifact, options)
