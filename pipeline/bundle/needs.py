"""What an artifact needs on the machine that is to run it, read from its own files where they tell."""

from __future__ import annotations

from pathlib import Path

from export.artifact import Artifact
from export.environment import versions
from pipeline.verifier.needs import package_needs

ONNX_BACKENDS = ("onnx", "onnx-legacy", "onnx-int8")
_ONNXRUNTIME_OF_OPSET = {
    13: "1.6",
    14: "1.8",
    15: "1.10",
    16: "1.11",
    17: "1.12",
    18: "1.14",
    19: "1.15",
    20: "1.17",
    21: "1.18",
}
"""The first ONNX Runtime that knows an opset, from its compatibility table; newer opsets are left to the loader."""
_ONNXRUNTIME_OF_IR = {8: "1.10", 9: "1.15", 10: "1.18"}


def runtime(backend: str) -> str:
    """What runs a backend's artifacts: ``onnxruntime``, ``openvino`` or ``torch``."""
    return "onnxruntime" if backend in ONNX_BACKENDS else ("openvino" if backend.startswith("openvino") else "torch")


def main_file(artifact: Artifact) -> str:
    """The path of the file that is loaded, where there are others beside it."""
    models = [file.path for file in artifact.files if Path(file.path).suffix in (".onnx", ".xml", ".pt2", ".ts")]
    return models[0]


def needs(artifact: Artifact, folder: Path) -> dict[str, str]:
    """Requirements by name: versions (``>=`` or ``==`` up to the minor), and what the code was compiled for."""
    installed = versions()
    if runtime(artifact.backend) == "onnxruntime":
        return _onnx(folder / main_file(artifact))
    if runtime(artifact.backend) == "openvino":
        return {"openvino": f">={installed['openvino'].partition('-')[0]}"}
    torch = installed["torch"].partition("+")[0]
    if artifact.backend == "aotinductor":
        return {"torch": f"=={torch}", **package_needs(folder / main_file(artifact))}
    exact = artifact.backend in ("compile", "exported")
    return {"torch": f"{'==' if exact else '>='}{torch}"}


def _onnx(path: Path) -> dict[str, str]:
    """Opsets and IR version of the file; the oldest ONNX Runtime that can know them, as far as its table goes."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    floors = [_ONNXRUNTIME_OF_OPSET.get(opsets.get("ai.onnx", 0)), _ONNXRUNTIME_OF_IR.get(model.ir_version)]
    known = [floor for floor in floors if floor is not None]
    return {
        "opset": ", ".join(f"{domain} {version}" for domain, version in sorted(opsets.items())),
        "ir_version": str(model.ir_version),
        "onnxruntime": f">={max(known, key=_numbers)}" if known else ">=1.6",
    }


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
