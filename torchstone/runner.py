"""An artifact, verified and ready to be called."""

from __future__ import annotations

from pathlib import Path

from export import registry
from export.artifact import RECORD
from export.backend import LoadOptions, Runner
from export.environment import cores_count
from export.errors import UserError


def load(folder: str | Path, device: str = "cpu", *, threads_count: int | None = None) -> Runner:
    """An artifact, verified and ready: ``runner({"ids": ids})`` returns outputs by name, NumPy for NumPy.

    Args:
        folder: The artifact's, such as ``result["onnx"].folder``.
        device: Where it is to run; one that is bound to a device runs on that alone.
        threads_count: Threads of one call; all cores if not given.

    Raises:
        UserError: no artifact lies there.
        RecordError: a file is missing or altered: nothing of it was loaded.
    """
    place = Path(folder)
    if not (place / RECORD).is_file():
        raise UserError(f"{place} must be the folder of an artifact, such as artifacts/seed/latest/artifacts/onnx")
    return registry.load(place, LoadOptions(device=device, threads_count=threads_count or cores_count()))
