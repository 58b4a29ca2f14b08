"""OpenVINO in int8, quantised by NNCF with ranges from training data; what is not quantised computes in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.exporters.onnx import export_program
from export.exporters.quantize import PRECISION, calibration_calls, refuse_unquantized
from export.runtimes.openvino import OpenVinoRequest, convert, quantize_model, runtime_missing, save, stored

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact
    from export.backend import BuildInput, Loaded, LoadOptions, Threads
    from export.contents import Contents

SOURCE_FREE = True
DEVICE_BOUND = False
NEEDS_PROGRAM = True
PACKAGES = ("torch", "onnx", "onnxscript", "openvino", "nncf")
MODULES = ("openvino",)
THREADS: Threads = "session"


def unavailable(device: str) -> str | None:
    """An extra, for the CPU."""
    return runtime_missing(device) or runtime_missing(device, "nncf", "openvino-int8")


def build(source: BuildInput, folder: Path) -> dict[str, str]:
    """Convert, quantise, save."""
    calls = list(calibration_calls(source))
    with tempfile.TemporaryDirectory(prefix="torchstone-openvino-") as scratch:
        file = Path(scratch) / "model.onnx"
        facts = export_program(source, file)
        model, quantized_count = quantize_model(convert(file), calls)
    refuse_unquantized(quantized_count, "operator that NNCF quantises")
    save(model, folder)
    return {
        "form": "OpenVINO model, int8 by NNCF",
        "from": f"{facts['form']}, opset {facts['opset']}",
        "precision": PRECISION,
        "quantized": str(quantized_count),
        "calibration_rows": str(sum(len(next(iter(call.values()))) for call in calls)),
    }


def contents(artifact: Artifact, folder: Path) -> Contents | None:
    """The model's constants."""
    return stored(folder)


def load(artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
    """Compiled for this processor, in float32."""
    return OpenVinoRequest(artifact, folder, options)
