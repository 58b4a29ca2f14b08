"""What an artifact needs where it is served: its main file, the runtime's distribution, a GPU."""

from __future__ import annotations

from pathlib import Path

from export import registry
from export.artifact import Artifact
from export.backend import LoadOptions
from export.device import device
from export.errors import UserError
from pipeline.verifier.needs import GPU, package_needs

_RUNTIME, _GPU_RUNTIME = "onnxruntime", "onnxruntime-gpu"
_STRICT_FLOAT32_FROM = "1.18"
"""The first ONNX Runtime that can be told on a GPU to multiply float32 as float32."""


def main_file(artifact: Artifact) -> str:
    """Its path, relative to the artifact's folder.

    Raises:
        UserError: the backend names none: it has no files, and cannot ship.
    """
    file = registry.get(artifact.backend).file
    if file is None:
        raise UserError(f"the backend {artifact.backend} names no file that is loaded: it cannot ship")
    return file


def distribution(options: LoadOptions) -> str:
    """The distribution of ONNX Runtime that has the provider of the device that an artifact was judged on."""
    return _GPU_RUNTIME if device(options.device).asynchronous else _RUNTIME


def needs_of(artifact: Artifact, folder: Path, options: LoadOptions) -> dict[str, str]:
    """What the target must have, read from the artifact's files, and for a GPU the runtime that drives it.

    ``onnxruntime`` is any build of it; a GPU's artifact needs ``onnxruntime-gpu``, and a GPU.
    """
    needs = registry.get(artifact.backend).needs(artifact, folder) | package_needs(folder / main_file(artifact))
    maker = device(options.device).maker
    if maker is None:
        return needs
    if (oldest := needs.pop(_RUNTIME, None)) is not None:
        needs[_GPU_RUNTIME] = max(oldest, f">={_STRICT_FLOAT32_FROM}", key=_numbers)
    return needs | {GPU: maker}


def _numbers(wanted: str) -> tuple[int, ...]:
    return tuple(int(part) for part in wanted.removeprefix(">=").split("."))
