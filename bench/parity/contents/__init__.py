"""The weights and settings inside an artifact, compared with the checkpoint's and the traced program's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Something in an artifact's files that is not the model's."""

    place: str
    """The weight, or the node or module of the traced program, that it belongs to; empty where that is not known."""
    message: str
