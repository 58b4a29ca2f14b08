"""OpenVINO in float32, from the ONNX file that PyTorch's dynamo exporter makes of the traced program."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.exporters.onnx import export_program
from export.runtimes.openvino import OpenVinoRequest, convert, runtime_missing, save, stored

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact
    from export.backend import BuildInput, Loaded, LoadOptions, Threads
    from export.contents import Contents

SOURCE_FREE = True
DEVICE_BOUND = False
NEEDS_PROGRAM = True
PACKAGES = ("torch", "onnx", "onnxscript", "openvino")
MODULES = ("openvino",)
THREADS: Threads = "session"


def unavailable(device: str) -> str | None:
    """An extra, for the CPU."""
    return runtime_missing(device)


def build(source: BuildInput, folder: Path) -> dict[str, str]:
    """Convert, and save with the weights as they are."""
    with tempfile.TemporaryDirectory(prefix="torchstone-openvino-") as scratch:
        file = Path(scratch) / "model.onnx"
        facts = export_program(source, file)
        save(convert(file), folder)
    return {"form": "OpenVINO model", "from": f"{facts['form']}, opset {facts['opset']}"}


def contents(artifact: Artifact, folder: Path) -> Contents | None:
    """The model's constants."""
    return stored(folder)


def load(artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
    """Compiled for this processor, in float32."""
    return OpenVinoRequest(artifact, folder, options)
