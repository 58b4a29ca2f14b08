"""Deployments of a bundle's Triton repository: KServe's InferenceService, a plain Deployment, and the image for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.bundle.record import Shipped

TRITON_RELEASE = "24.10"
"""The release of the container; the tests load the repository in its core, 2.51."""
_IMAGE = f"nvcr.io/nvidia/tritonserver:{TRITON_RELEASE}-py3"
_OWN_MIB = 512
"""Memory that the server takes before it loads a model."""
_DRAIN_S = 60
_HTTP, _GRPC, _METRICS = 8000, 8001, 8002


def write_kserve(path: Path, name: str, shipped: Shipped, storage_uri: str) -> None:
    """An ``InferenceService`` of the protocol v2, its runtime and that runtime's version pinned."""
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": _label(name)},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "onnx"},
                    "protocolVersion": "v2",
                    "runtime": "kserve-tritonserver",
                    "runtimeVersion": f"{TRITON_RELEASE}-py3",
                    "storageUri": storage_uri,
                    "resources": _resources(shipped),
                }
            }
        },
    }
    _dump(path, service)


def write_deployment(folder: Path, name: str, shipped: Shipped) -> None:
    """``Dockerfile`` (built in the bundle) and ``kubernetes.yaml``: a Deployment and its Service."""
    label = _label(name)
    labels = {"app.kubernetes.io/name": label}
    server = _server(f"{label}:1", shipped)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": label, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": _DRAIN_S, "containers": [server]},
            },
        },
    }
    ports = [
        {"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]} for port in server["ports"]
    ]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": label, "labels": labels},
        "spec": {"selector": labels, "ports": ports},
    }
    _dump(folder / "kubernetes.yaml", deployment, service)
    (folder / "Dockerfile").write_text(
        f"# In the bundle: docker build -t {label}:1 -f serving/Dockerfile .\n"
        f"FROM {_IMAGE}\n"
        "COPY serving/triton /models\n"
        'CMD ["tritonserver", "--model-repository=/models"]\n'
    )


def _server(image: str, shipped: Shipped) -> dict[str, Any]:
    """The container: Triton on the repository that its image holds."""
    return {
        "name": "triton",
        "image": image,
        "args": [
            "tritonserver",
            "--model-repository=/models",
            "--strict-readiness=true",
            f"--exit-timeout-secs={_DRAIN_S // 2}",
        ],
        "ports": [
            {"name": "http", "containerPort": _HTTP},
            {"name": "grpc", "containerPort": _GRPC},
            {"name": "metrics", "containerPort": _METRICS},
        ],
        "resources": _resources(shipped),
        "startupProbe": _probe("ready", failureThreshold=60),
        "readinessProbe": _probe("ready"),
        "livenessProbe": _probe("live"),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _resources(shipped: Shipped) -> dict[str, Any]:
    """As many cores as it was measured with, and twice the memory that a process with it was seen to take."""
    memory = f"{_OWN_MIB + 2 * (shipped.peak_bytes >> 20)}Mi"
    limits: dict[str, Any] = {"cpu": str(shipped.options.threads_count), "memory": memory}
    return {"requests": dict(limits), "limits": limits}


def _probe(state: str, **settings: int) -> dict[str, Any]:
    return {"httpGet": {"path": f"/v2/health/{state}", "port": "http"}, "periodSeconds": 2, **settings}


def _label(name: str) -> str:
    """A name as Kubernetes allows it."""
    return re.sub("[^a-z0-9-]+", "-", name.lower()).strip("-")[:63].strip("-") or "model"


def _dump(path: Path, *documents: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
