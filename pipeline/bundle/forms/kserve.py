"""KServe's ``InferenceService`` for the model repository of a bundle, on either of two runtimes: Triton or OpenVINO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.bundle.forms import triton
from pipeline.bundle.forms.objects import resources, write_objects
from pipeline.bundle.forms.server import environment, triton_arguments
from pipeline.bundle.record import Shipped

OPENVINO_RELEASE = "2026.4.1"
"""The tag of the model server's image, with the OpenVINO that the tests pin."""


def write_kserve(path: Path, name: str, shipped: Shipped, storage_uri: str, content: str) -> None:
    """On Triton; ``name`` is a label, ``storage_uri`` the model repository, ``content`` a digest of what it holds."""
    model: dict[str, Any] = {
        "runtime": "kserve-tritonserver",
        "runtimeVersion": f"{triton.RELEASE}-py3",
        "storageUri": storage_uri,
    }
    if arguments := triton_arguments(shipped):
        model["args"] = arguments  # which KServe adds to the runtime's own
    write_objects(path, _service(name, shipped, content, model))


def write_kserve_openvino(path: Path, name: str, shipped: Shipped, storage_uri: str, content: str) -> None:
    """On the OpenVINO model server, which wants one model's folder with a numbered folder for each version in it.

    That is the model's folder in the Triton repository; other files and folders there the server leaves alone. Left to
    itself it computes in bfloat16 where the processor can.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": shipped.options.threads_count,
        "NUM_STREAMS": 1,
    }
    model = {
        "runtime": "kserve-openvino",
        "runtimeVersion": OPENVINO_RELEASE,
        "storageUri": f"{storage_uri.rstrip('/')}/{name}",
        "args": [f"--plugin_config={json.dumps(settings)}"],
    }
    comment = "OpenVINO runs model.onnx here: what vouches for it is the parity of the backend openvino, not of onnx."
    write_objects(path, _service(name, shipped, content, model), comment=comment)


def _service(name: str, shipped: Shipped, content: str, model: dict[str, Any]) -> dict[str, Any]:
    """The object, with the protocol v2, a runtime and that runtime's version pinned.

    Pods bear what they serve in a label: applied with other content, it replaces them though the URI is the same.
    """
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {
            "predictor": {
                "labels": {"app.kubernetes.io/version": content},
                "model": {
                    "modelFormat": {"name": "onnx"},
                    "protocolVersion": "v2",
                    **model,
                    "env": [{"name": name, "value": value} for name, value in environment(shipped).items()],
                    "resources": resources(shipped),
                },
            }
        },
    }
