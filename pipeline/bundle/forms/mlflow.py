"""MLflow's ONNX layout: with ``MLmodel`` beside ``model.onnx`` the bundle itself is an MLflow model."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import yaml

from export.environment import versions
from export.signature import Signature, TensorSpec

_REQUIREMENTS = ("numpy", "onnx")


def write_mlmodel(folder: Path, file: str, signature: Signature) -> None:
    """``MLmodel``, and the environment that it names."""
    installed = versions()
    runtime = next(name for name in installed if name.startswith("onnxruntime"))
    provider = "CPUExecutionProvider"
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
    requirements = [f"{name}=={installed[name]}" for name in (*_REQUIREMENTS, runtime)]
    environment = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    (folder / "MLmodel").write_text(yaml.safe_dump(model, sort_keys=False), encoding="utf-8")
    (folder / "python_env.yaml").write_text(yaml.safe_dump(environment, sort_keys=False), encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(["mlflow", *requirements]) + "\n", encoding="utf-8")


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return {"name": spec.name, "type": "tensor", "tensor-spec": {"dtype": spec.dtype, "shape": shape}}
