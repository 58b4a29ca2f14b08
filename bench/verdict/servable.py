"""Whether what a model takes and gives can be kept in a bundle and sent to a server at all."""

from __future__ import annotations

from export.signature import Signature

_NOT_SENT = "bfloat16"
"""A dtype of neither NumPy's files, in which a bundle keeps its golden answers, nor the servers' requests."""


def not_servable(signature: Signature) -> list[str]:
    """Why its tensors cannot; none if they can."""
    names = [spec.name for spec in (*signature.inputs, *signature.outputs) if spec.dtype == _NOT_SENT]
    if not names:
        return []
    return [
        f"{', '.join(names)} in {_NOT_SENT}, which bundles and servers do not take: hand over float32, and cast inside"
    ]
