"""MLflow's ONNX layout: with ``MLmodel`` beside ``model.onnx`` the bundle itself is an MLflow model."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import yaml

from export.device import device
from export.environment import versions
from export.signature import Signature, TensorSpec
from pipeline.bundle.forms.triton import STRICT_FLOAT32
from pipeline.bundle.needs import distribution
from pipeline.bundle.record import Shipped

_REQUIREMENTS = ("numpy", "onnx")
_GPU_MLFLOW = "mlflow>=3.17"
"""Which hands a provider's options on, and warns where the runtime takes the CPU instead."""


def write_mlmodel(folder: Path, file: str, signature: Signature, shipped: Shipped) -> None:
    """``MLmodel``, and the environment that it names.

    MLflow opens a session with the providers that stand here and no others. It hands each on as it is, so that of a
    GPU's also carries how float32 is multiplied.
    """
    installed, where = versions(), device(shipped.options.device)
    runtime = next(name for name in installed if name.startswith("onnxruntime"))
    provider = [where.provider, dict(STRICT_FLOAT32)] if where.asynchronous else where.provider
    model = {
        "flavors": {
            "onnx": {"onnx_version": installed["onnx"], "data": file, "providers": [provider], "code": None},
            "python_function": {
                "loader_module": "mlflow.onnx",
                "python_version": platform.python_version(),
                "data": file,
                "env": {"virtualenv": "python_env.yaml"},
            },
        },
        "signature": {
            "inputs": json.dumps([_tensor(spec) for spec in signature.inputs]),
            "outputs": json.dumps([_tensor(spec) for spec in signature.outputs]),
            "params": None,
        },
    }
    requirements = [_GPU_MLFLOW if where.asynchronous else "mlflow"]
    requirements += [f"{name}=={installed[name]}" for name in _REQUIREMENTS]
    requirements.append(f"{distribution(shipped.options) if where.asynchronous else runtime}=={installed[runtime]}")
    environment = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    (folder / "MLmodel").write_text(yaml.safe_dump(model, sort_keys=False), encoding="utf-8")
    (folder / "python_env.yaml").write_text(yaml.safe_dump(environment, sort_keys=False), encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return {"name": spec.name, "type": "tensor", "tensor-spec": {"dtype": spec.dtype, "shape": shape}}
