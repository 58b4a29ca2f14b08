"""ONNX through PyTorch's dynamo exporter, run on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from export.exporters.onnx import export_program
from export.runtimes.onnxruntime import OnnxSession, runtime_missing

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
    """Export the traced program, check the file with ONNX's own checker."""
    return export_program(source, folder / FILE)


def contents(artifact: Artifact, folder: Path) -> Contents | None:
    """Initializers and constants by name, and the watched settings of nodes whose module the exporter recorded."""
    from export.exporters.onnx_file import read_contents

    return read_contents(folder / FILE)


def load(artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
    """A session on the file; on CUDA a node that would run on the CPU is an error."""
    return OnnxSession(folder / FILE, artifact, options)
