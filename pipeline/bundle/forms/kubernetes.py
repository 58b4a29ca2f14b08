"""A plain Deployment of a bundle's Triton repository with its Service, and the image for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from export.device import device
from export.errors import UserError
from pipeline.bundle.forms import triton
from pipeline.bundle.forms.objects import resources, write_objects
from pipeline.bundle.forms.server import environment, triton_arguments
from pipeline.bundle.record import Shipped

BASE_IMAGE = f"nvcr.io/nvidia/tritonserver:{triton.RELEASE}-py3"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[a-z0-9][a-z0-9.-]*(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"  # registry, repository
    r"(?P<tag>:\w[\w.-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_USER = 1000
"""``triton-server`` in Triton's own images."""
_DRAIN_S = 60
_HTTP, _GRPC, _METRICS = 8000, 8001, 8002


def check_image(image: str) -> None:
    """Whether a base image may stand in the Dockerfile.

    Raises:
        UserError: it is no name of an image, or one with neither a tag nor a digest.
    """
    named = _IMAGE.fullmatch(image)
    if named is None or not (named["tag"] or named["digest"]):
        raise UserError(
            f"--base-image must name an image with its tag or digest, such as {BASE_IMAGE} or "
            f"nvcr.io/nvidia/tritonserver@sha256:<64 hex digits>, got {image!r}"
        )


def _strategy(shipped: Shipped) -> dict[str, Any]:
    """On a GPU the old pod ends before the new one starts: by default a second GPU is waited for, for ever."""
    if not device(shipped.options.device).asynchronous:
        return {}
    return {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}


def write_deployment(folder: Path, name: str, shipped: Shipped, content: str, base_image: str) -> None:
    """``Dockerfile`` (built in the bundle) and ``kubernetes.yaml``: a Deployment and its Service.

    ``name`` is a label, and ``content`` a digest of what the image holds, its tag: another version is another image,
    so that applying its Deployment replaces the pods.
    """
    image, environ = f"{name}:{content}", environment(shipped)
    command = ["tritonserver", "--model-repository=/models", *triton_arguments(shipped)]
    selector = {"app.kubernetes.io/name": name}
    labels = {**selector, "app.kubernetes.io/version": content}
    server = _server(image, shipped)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            **_strategy(shipped),
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": labels}, "spec": _pod(server)},
        },
    }
    ports = [
        {"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]} for port in server["ports"]
    ]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {"selector": selector, "ports": ports},
    }
    write_objects(folder / "kubernetes.yaml", deployment, service)
    (folder / "Dockerfile").write_text(
        f"# In the bundle: docker build -t {image} -f serving/Dockerfile .\n"
        f"FROM {base_image}\n"
        f"COPY --chown={_USER}:{_USER} serving/triton /models\n"
        f"ENV {' '.join(f'{name}={value}' for name, value in environ.items())}\n"
        f"USER {_USER}:{_USER}\n"
        f"CMD {json.dumps(command)}\n"
    )


def _pod(server: dict[str, Any]) -> dict[str, Any]:
    """The "restricted" profile of Kubernetes' Pod Security Standards, without a token, on a disk that is read only."""
    return {
        "terminationGracePeriodSeconds": _DRAIN_S,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [server],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


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
            *triton_arguments(shipped),
        ],
        "ports": [
            {"name": "http", "containerPort": _HTTP},
            {"name": "grpc", "containerPort": _GRPC},
            {"name": "metrics", "containerPort": _METRICS},
        ],
        "resources": resources(shipped),
        "startupProbe": _probe("ready", failureThreshold=60),
        "readinessProbe": _probe("ready"),
        "livenessProbe": _probe("live"),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the container
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _probe(state: str, **settings: int) -> dict[str, Any]:
    return {"httpGet": {"path": f"/v2/health/{state}", "port": "http"}, "periodSeconds": 2, **settings}
