"""How a server is started for an artifact: the environment and the arguments that its device asks for."""

from __future__ import annotations

from export import TELEMETRY_OFF
from export.device import CHILD_ENVIRONMENT, device
from pipeline.bundle.forms.triton import GPU_CONFIG
from pipeline.bundle.record import Shipped


def environment(shipped: Shipped) -> dict[str, str]:
    """The server's environment: for a GPU what every process had that tested the artifact there."""
    on_gpu = device(shipped.options.device).asynchronous
    return {**TELEMETRY_OFF, **(CHILD_ENVIRONMENT if on_gpu else {})}


def triton_arguments(shipped: Shipped) -> list[str]:
    """What Triton is given beside its repository: which configuration to take, where it is not the first."""
    return [f"--model-config-name={GPU_CONFIG}"] if device(shipped.options.device).asynchronous else []
