"""The file of an artifact that is loaded, where others lie beside it."""

from __future__ import annotations

from export import registry
from export.artifact import Artifact
from export.errors import UserError


def main_file(artifact: Artifact) -> str:
    """Its path, relative to the artifact's folder.

    Raises:
        UserError: the backend names none: it has no files, and cannot ship.
    """
    file = registry.get(artifact.backend).file
    if file is None:
        raise UserError(f"the backend {artifact.backend} names no file that is loaded: it cannot ship")
    return file
